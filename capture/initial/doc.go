// Package initial reads tables for a snapshot: a plan of chunks, the copy of an exported snapshot by
// several connections, and chunks between watermarks while streaming goes on.
package initial
