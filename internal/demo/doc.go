// Package demo is the source of the demonstration: real flights out of New York in 2013, a
// PostgreSQL schema, and a replayer that writes what an airline would have written, in simulated
// time.
//
// # What is written
//
//	sched_dep - 24 h   INSERT  the flight as scheduled; a tenth of them under another tail number,
//	                           some with another airline
//	08:00 UTC between  UPDATE  fare, of half of the flights: the day's one large transaction
//	sched_dep - 3 h    UPDATE  dep_delay, arr_delay, of a twelfth: a delay is announced (of the flights
//	                           that never leave or arrive elsewhere, of half)
//	sched_dep - 2.5 h  UPDATE  carrier: the airline that operates the flight after all
//	sched_dep - 2 h    UPDATE  tailnum, of that tenth: the flight moves to the plane that flew it
//	departure          UPDATE  dep_time, dep_delay
//	arrival            UPDATE  arr_time, arr_delay, air_time (diverted: 6 h after departure,
//	                           arr_time only, and what was announced is gone)
//	sched_dep + 4 h    DELETE  of what never left
//
// Every six hours eight planes change their seats and one plane is struck off, to come back some
// hours later; planes join the fleet late, airlines are renamed, airports corrected. Times, delays
// and joins are the record; fares, moves, announcements and changes of dimensions are made up, by a
// hash of what they concern.
//
// # The plan
//
// All of it is one list of transactions, a pure function of the data: [Load] makes it. Time is cut
// into steps of 5 minutes; a transaction holds 1 to 50 changes of one step (up to 500 when many are
// due), and moves public.simulation_clock to its last change first. An empty step, and each whole
// hour, has a transaction that moves the clock alone. "The state at t" is what all transactions with
// a clock before t leave. One in 20 transactions does junk in a savepoint and takes it back before
// the real changes, one in 20 does the real changes inside a savepoint, and one in 20 has a
// transaction of junk before it that is rolled back.
//
// # Resuming
//
// demo.progress holds the number of the next transaction and changes within each: a replayer killed at
// any point goes on exactly where the database is. Two replayers on one database stop each other.
package demo
