// Package table writes and reads freshet's historical tables: Delta Lake tables with deletion
// vectors, in pure Go, over a store of objects. Other engines read them as they are.
//
// A table is a directory of immutable files and a log. A version of it is what the log's entries
// 0…N, applied in order, leave: a set of Parquet files, each with the rows of it that are deleted.
// A version appears when its entry is created, if absent, and at no other moment:
//
//	_delta_log/00000000000000000000.json      version 0: protocol, schema; an action per line
//	_delta_log/00000000000000000001.json      version 1: what it adds and removes
//	bucket=7/part-<16 hex>.parquet            data; the name is the content's SHA-256, its first 8 bytes
//	bucket=7/day=2013-01-31/part-….parquet    data of a table by bucket and day
//	deletion_vector_<uuid>.bin                positions deleted in one file; the uuid is from the content
//
// The last line of an entry is its commitInfo, and that ends with "freshetSum": the first 16 hex
// digits of the SHA-256 of all bytes of the entry before `,"freshetSum"`. A cut or altered entry of
// ours is therefore noticed; entries without it were written by others (Entry.Foreign).
//
// A deletion vector, in a file (storage "u") or, when it is small, in the log (storage "i", without
// the frame):
//
//	1 version = 1 | 4 size, big-endian | vector of size bytes | 4 CRC-32 of vector, big-endian
//	vector = 4 magic 1681511377 LE | 8 bitmaps LE | per 2^32 rows: 4 key LE | Roaring bitmap, portable
//
// In the log the bytes (padded to a multiple of 4), or the file's uuid, are written in Z85.
//
// How a version is made, and where a crash leaves what:
//
//  1. WriteFile encodes rows into a local file, syncs it, reads it back and compares the digest of
//     every column, gives it its content's name, puts it into the store and hashes what is there.
//  2. WriteDV does the same for the positions that a file loses.
//  3. Commit creates the log entry on top of its parent.
//
// Before 3 there are only files that no entry names: harmless, and named by content, so a rerun finds
// them. Reruns are recognised by the entry's txn (Snapshot.Txn), and a twin that writes the very same
// entry is told that it succeeded. There are no clocks in any byte: times are the caller's log time.
//
// Not here yet: Delta checkpoints (a reader replays the whole log, an entry at a time; a Table keeps
// the last version and reads only what is new), vacuum, lists, and pruning by statistics.
package table
