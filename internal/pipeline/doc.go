// Package pipeline is the graph of a pipeline's steps and its schedule. It does no work itself: the
// caller gives a function that executes a step, and keeps the Record.
//
// A run of a pipeline is a Record. Deciding what to do next is a pure function of it ([Graph.Next]):
//
//	pending ── all needs finished ──▶ started ──▶ ok | held | failed
//	    └── a need failed, was skipped, or is held under on_held: stop ──▶ skipped
//
// Under on_held: last_good a step whose need is held is executed all the same, on that need's last
// good version, and its record names the held step (Stale), as do all that build on it. A failure is
// no gate's verdict: what needs a failed step is skipped under either rule.
//
// Schedules are on log time, so a run is named by the instant it was due, and never by a clock. When
// instants were missed, only the latest of them runs ([Due]): each run is at a cut and covers all that
// came before, so the earlier ones would do nothing more.
package pipeline
