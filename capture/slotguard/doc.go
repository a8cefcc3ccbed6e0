// Package slotguard watches what a replication slot costs its server, and says what to do before the
// slot fills the server's disk or is lost.
//
// A slot makes the server keep its log from restart_lsn on, without end unless
// max_slot_wal_keep_size says otherwise; and then the server takes the slot away, at the next checkpoint
// after safe_wal_size is used up. [Step] turns each measurement into a stage and into what there is to
// do now. It is a pure function; [Guard] measures now and then and calls it.
//
//	OK ─▶ Warn ─▶ Shed ─▶ Page ─▶ Drop        each by bytes, by the part used of what is safe,
//	 ▲      │       │       │       │         or by the time left; any of the three is enough
//	 └──────┴───────┴───────┴───────┘         back only well below the limit (Limits.Release)
//	 ▲
//	 └── Lost, from any stage: terminal for the slot; only a new slot of that name leads out
//
// [Failover] is the other half: whether the slot would be there after a failover.
package slotguard
