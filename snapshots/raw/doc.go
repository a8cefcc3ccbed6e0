// Package raw keeps the changes themselves: the table raw/<group> holds every record of the group's
// changes topic, byte for byte, up to a cut. A view is rebuilt from it, and a topic is cut short behind it.
//
//	changes topic, partition p, [next offset of the last append, next offset at the cut)
//	  └ every record, in order → raw/<group>  bucket=p/day=…/part-….parquet, one commit for all buckets
//
// The day is that of the record's log time, in UTC. Columns:
//
//	_offset       bigint     of the record in its partition of the topic
//	_position     string     of the change or control (package position)
//	_op           string     insert, update, delete, snapshot; or the kind of the control
//	_table        string     schema.table; NULL on controls that concern none
//	_commit_time  timestamp
//	_log_time     timestamp
//	_record       binary     the record's value as it was: Confluent frame and Avro; the schema is in the registry topic
//
// A commit holds txn "freshet.raw.<group>" = the cut's ordinal, and in commitInfo cut, ordinal, position,
// log_time, parent, records, and, per partition, from and offsets: the records [from, offsets) are its own.
// An append is a function of the topic and of the parent version: a rerun writes the same bytes under the
// same names, and one that finds its ordinal in the table does nothing. Only records of committed
// transactions are read, as the fold reads them.
package raw
