// Package initial reads whole tables for capture: it plans chunks, reads them, and says which of their
// rows may be published when. It publishes nothing and keeps nothing durable: that is capture's part,
// and the rules for it are here.
//
// # Of an exported snapshot
//
// [Plan] cuts tables into ranges of blocks, a [Copier] reads them by several connections that have
// adopted the snapshot and delivers them in order. Every row is as of the consistent point, so all of
// them are published before the stream's first commit, and nothing else needs to be known. After each
// chunk the publisher makes durable how far it is, with the rows. Chunks of one plan have the same
// rows however often they are read, as long as the snapshot is held.
//
// # Between watermarks
//
// Without that snapshot (the session that exported it ended with the publisher; a table was added;
// somebody wants a table read again) each chunk is read by an ordinary transaction that sees one
// state of the table, while streaming goes on. Its low watermark is the transaction's own
// pg_current_snapshot(), its high watermark a position of the log read after that. Three facts decide:
//
//   - A transaction is seen only after its commit is in the log. So every transaction the chunk saw has
//     its commit below the high watermark: once the stream is published up to there, no row of the
//     chunk is older than what was published, except by transactions that the chunk did not see.
//   - The reverse does not hold. A commit can be in the log, and published, and not be seen for a while
//     (with a synchronous standby for as long as that one takes). Positions alone therefore cannot tell
//     what a chunk saw; transaction ids can, and the stream's Begin has them.
//   - Whoever changes a row that another has changed waits until the other is seen. So of the
//     transactions that touched one key those the chunk saw come before those it did not: the last one
//     tells.
//
// So a [Window] keeps, for each key that the publisher has published a change of, the last transaction,
// until a snapshot sees that one; and a row of a chunk is published unless the last to touch its key is
// one that the chunk did not see. Then the stream has published something newer.
//
// Images in the stream may not be whole: a value that is stored apart and unchanged is left out unless
// the replica identity is full. Downstream completes it by the row it has, and if it has none leaves
// the change out, because the row's chunk is still to come and will have it. Two cases are
// not covered by that, and their keys are read again: a row of the chunk that was overtaken by such an
// image; and a row that has changed its key on such an image, whose former key may lie in the part of
// the table that was not read.
//
// # What the publisher does
//
//  1. At the beginning, and after every takeover: chunk numbers that were never used, durable before
//     anything else is published; a new [Window]; from now on every published change of the table is told to it, in the
//     order of publication: Touch, Move for an update that changes the key, Truncate. An image
//     that the old one completes is whole. Where the table is known to be read, [Window.Covered]
//     with the keys it still has to read again.
//  2. [Fence], beside the stream, which goes on. For a table that is new to the publication, after it
//     was added there.
//  3. By another connection: [Reader.Next] after the last key read; or, for a table begun by blocks
//     whose images are all whole ([WholeImages]), [Reader.Blocks] over what is left of a fresh
//     [Plan]; or [Reader.Again]. One batch at a time is enough: the next is read while this one waits.
//  4. When every commit below the batch's High is published and no half of another (at a Begin whose LSN
//     is not below High; or a keepalive, which is to be asked for if nothing comes): [Batch.Publish].
//     If it gives false, back to 3. It may also wait at High for a batch that is not read yet; then next
//     to nothing is overtaken.
//  5. Once the Kafka transaction that holds the rows is committed: how far it is, durable. When the table is
//     read to its end, [Window.Covered]. Before the commit of any transaction with changes of the table:
//     the keys of [Window.TakeAgain], durable.
//  6. If [Window.Full]: [Current], [Window.Open] with it; if it is still full, wait and do it again.
//     It may be done in the middle of a transaction.
//  7. When all is read, and nothing is left to be read again: the control record that ends the snapshot, if it has one.
//
// A kill at any point leaves the rows and changes that are noted, or one chunk more, which is read again
// and replaces itself. What was read and not published is read again. A chunk that was written in a Kafka transaction which was aborted
// may have been read by those who do not wait for commits; it was right at its place in the log, and
// what is read again has a number of its own, so that it is not taken for the same.
//
// # What is downstream
//
// A row of a snapshot replaces the row with its primary key. A change whose image is not whole, of a row
// that is not there, is left out while the table is being read, and a deletion or before-image of
// a row that is not there takes nothing back. A table that is read in place, to retract what is gone,
// counts a row as found if a row of the snapshot or a change after its beginning has its key.
//
// # Layout of keys
//
// A row's key is, for each column of the primary key in the index's order:
//
//	length, uvarint | value as PostgreSQL's text
package initial
