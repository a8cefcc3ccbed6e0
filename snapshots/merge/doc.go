// Package merge carries the deltas of a view, from one cut to the next, into its two tables: one new
// version of each, through the five gates.
//
//	outbox of partition p, (parent's sequence, cut's sequence]
//	  │ pass 1: every delta, in order             → features/<view>/history  bucket=p/day=…/part-….parquet
//	  │ pass 2: the last delta of each entity     → features/<view>/current  bucket=p/part-….parquet
//	  └ the old rows of these entities, found in the key columns of the bucket's files,
//	    are deleted from them by deletion vectors
//
// What a bucket's pass leaves is a pure function of the parent version and the deltas: the same bytes
// under the same names, whoever does it and however often. A bucket with too many files, or a file
// with too many deleted rows, is rewritten on the way (rewrite.go).
//
// A run, with the points at which tests end the process:
//
//	record: running → stage every bucket · merge.staged → judge → record
//	  → merge.before-history · commit history · merge.after-history
//	  → commit current · merge.after-current → trim the outboxes · merge.trimmed → record: published
//
// Both commits hold txn "freshet.merge.<view>" = the cut's ordinal, on top of their parents. History
// is committed only while both tables are at one ordinal, and current only while history is one cut
// ahead; so whoever finds history ahead, after a crash or as a rival, completes that run first, from
// the deltas, which are still there, and from what history's commit says of it. commitInfo:
//
//	run, cut, ordinal, position, log_time   of the cut
//	parent                                  version of this table
//	parent_ordinal                          of the version of current that was merged into
//	sequences, offsets                      per partition: last delta; next record of the changes topic
//	gates, evidence                         verdicts by stage; SHA-256 of stages 1 to 4 of the record
//	deltas, inserts, updates, deletes, rows what was merged, and the rows of current after it
//
// NULLs are counted over the resulting rows themselves: the columns with a limit are read with the
// keys. Nothing is estimated or carried on from version to version.
package merge
