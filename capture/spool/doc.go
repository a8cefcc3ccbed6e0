// Package spool keeps the transactions that PostgreSQL streams while they are still in progress
// (pgoutput protocol 2) until their commit says that they count, or their abort that they do not.
//
// It is disposable: whoever restarts has everything sent again from the slot's restart position, so
// nothing is synced and [Open] wipes what a predecessor left. A stream that broke is a restart too:
// then Close and Open again, in this order: a directory is for one spool at a time. Disk is bounded
// ([Options.Bytes], then Append says [Full]), memory is ([Options.Memory]), and so are open files, however
// many transactions there are.
//
// # Layout
//
// A transaction is a log of runs. A run holds records that one subtransaction wrote one after
// another; it is at most a block (64 KiB) long, unless a single record is longer. Runs gather in
// memory and go to disk a block at a time, into segment files spool-<number>-<segment>.seg of about
// 128 MiB; no run lies in two of them. A segment is nothing but runs. Big-endian:
//
//	+--------+--------+--------+--------+----------+-----------------------------+
//	| length | before | sub    | newest | checksum | records                     |
//	| 4 B    | 4 B    | 4 B    | 4 B    | 4 B      | length B                    |
//	+--------+--------+--------+--------+----------+-----------------------------+
//	                                               | length | raw      | length |…
//	                                               | 4 B    | length B | 4 B    |…
//	                                               +--------+----------+--------+
//
// before is the length of the run before this one (in the segment before, if this is the first of
// its segment), 0 if there is none. sub is the subtransaction's id. newest is the largest sub of the
// log up to and with this run, as a distance from the transaction's id modulo 2³², which is the order
// in which PostgreSQL assigns them. checksum is CRC-32C of the 16 bytes before it and the records.
//
// # Aborts
//
// What PostgreSQL does (decode.c DecodeAbort, reorderbuffer.c ReorderBufferAbort and
// ReorderBufferAbortOld, pgoutput.c pgoutput_stream_abort; the tests see it on a server): an abort
// record names the aborted transaction and those of its subtransactions that had been released into it.
// Each that something was streamed of gets a message of its own, children before parents, and drops its
// own records alone. Children that were still open have aborted before, with records of their own. The
// whole transaction is the one whose message names the transaction itself. The shapes of tables that a
// subtransaction was the first to need go with it, and the server sends them again afterwards: so what
// survives always has the shapes it needs.
//
// A transaction that ended with a crash of its server has only the one message that names it, or, from
// servers of before that was mended, none: such a one stays until the spool is opened anew
// ([Stats.Oldest] shows it).
//
// Of a subtransaction that went to the server's own disk before it was streamed there is no message
// (ReorderBufferMaybeMarkTXNStreamed): its records are given back, and whoever reads a transaction has to
// ask the server for its commit log.
//
// Subtransactions nest and their ids grow, so what is aborted is nearly always the end of the log:
// it is cut off, by way of before, and its disk is free again. What is not at the end is remembered
// as aborted and skipped by readers, or cut off when what follows it is. newest tells what need not
// be remembered any longer: no run of a larger sub is left. After the messages of one abort record
// nothing is remembered at all, as PostgreSQL sends them; but any order is right.
package spool
