//go:build !linux

package main

import "syscall"

// ofItsOwn puts the broker into a process group of its own, so that Ctrl-C reaches it through us and
// after the command.
func ofItsOwn() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
