// Package embedded runs the services that freshet otherwise connects to: PostgreSQL for `demo`, and
// Kafka and NATS for `demo` and `up`. They are durable: what a client was told is stored is there
// after a kill -9 of this process and a new start on the same directory.
//
// PostgreSQL is the real server, version [PostgresVersion], as a child process of this one; its
// binaries come from Maven Central, are checked against digests compiled in, and are kept in a cache
// directory. Kafka is franz-go's kfake and NATS is nats-server, both inside this process. Neither is
// replicated: a cluster brings its own.
//
// Every service has a directory of its own, and one process at a time has it:
//
//	<dir>/LOCK          decimal process id and '\n' of the holder; flock()ed as long as it lives
//	<dir>/data/         PostgreSQL: the database cluster (PGDATA)
//	<dir>/postgres.log  PostgreSQL: what the server said, of this start and at most 4 MiB before
//	<dir>/store/        Kafka, NATS: their own files
//
// The cache directory (FRESHET_CACHE, else the user's cache directory, else for root
// /var/cache/freshet) is shared by all processes of the machine:
//
//	postgres-<version>-<platform>/      bin, lib, share; complete as soon as it is there (renamed)
//	postgres-<version>-<platform>.LOCK  flock()ed while one process downloads and extracts
//	embedded-postgres-binaries-….jar    taken instead of a download if its digest is right
package embedded
