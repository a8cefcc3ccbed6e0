// Package capture tails one PostgreSQL source into the changes topics.
//
// The walk of a change here:
//
//	run.go       takes the slot over, decides between first snapshot and streaming, owns the goroutines
//	initial.go   the first snapshot: whole tables by COPY under the slot's exported snapshot
//	reader.go    the stream's messages; transactions in progress wait in the spool; batches of events
//	stream.go    messages become numbered changes (a pure step)
//	shape.go     the shape of a table as its changes have it
//	output.go    a topic of one table by itself, in the envelope that other consumers know
//	route.go     which partitions of which groups a change concerns
//	cell.go      whole commits become cells, cells become Kafka transactions
//	care.go      what the slot costs the server, heartbeats
//	backfill.go  snapshots beside the stream, chunk by chunk; job.go is their list
//	failover.go  whether a server continues what was captured
//	ledger.go    what must be known after a restart, kept so that a capture taken over cannot undo it
//	cut.go       cuts, also ones that equal an exported snapshot
//	several.go   several slots of one source in one process; joint.go puts a cut at one commit over all of them
//	owner.go     which slot a topic is written through
//
// The slot is confirmed only up to what Kafka has durably: the commit LSN of the last published
// commit, or the resume point of the last published heartbeat (decision 0002). After a takeover the
// tails of the changes topics say where to go on; what is not above them is dropped.
package capture
