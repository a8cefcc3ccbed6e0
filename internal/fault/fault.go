// Package fault is how freshet says that something went wrong: what, where, and how to mend it,
// with a class that decides the exit code of a command.
package fault

import (
	"errors"
	"fmt"
)

// Class tells what kind of failure it is; the command line maps it to an exit code.
type Class int

// The classes and their exit codes (CONTRACT section 3).
const (
	Failed      Class = 1
	Usage       Class = 2
	Held        Class = 3
	NotFound    Class = 4
	Permission  Class = 5
	Timeout     Class = 6
	Unreachable Class = 7
)

// Error is a failure with its place and its mend. It wraps a cause, when there is one.
type Error struct {
	Class Class
	What  string // what happened, one sentence without a full stop
	Where string // file:line, topic/partition, table; may be empty
	Mend  string // the exact next step: a command, a statement, a setting; may be empty
	Cause error
}

// Error gives "where: what: cause (to mend: …)" with the parts that are there.
func (e *Error) Error() string {
	s := e.What
	if e.Where != "" {
		s = e.Where + ": " + s
	}
	if e.Cause != nil {
		s += ": " + e.Cause.Error()
	}
	if e.Mend != "" {
		s += "\n  to mend: " + e.Mend
	}
	return s
}

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Cause }

// New makes an Error of a class; what is formatted as by fmt.Sprintf.
func New(c Class, what string, args ...any) *Error {
	return &Error{Class: c, What: fmt.Sprintf(what, args...)}
}

// Wrap makes an Error around a cause.
func Wrap(c Class, cause error, what string, args ...any) *Error {
	return &Error{Class: c, What: fmt.Sprintf(what, args...), Cause: cause}
}

// At sets the place and gives e back.
func (e *Error) At(where string, args ...any) *Error {
	e.Where = fmt.Sprintf(where, args...)
	return e
}

// ToMend sets the mend and gives e back.
func (e *Error) ToMend(mend string, args ...any) *Error {
	e.Mend = fmt.Sprintf(mend, args...)
	return e
}

// ClassOf gives the class of the first Error in err's chain, and Failed when there is none.
func ClassOf(err error) Class {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Class
	}
	return Failed
}
