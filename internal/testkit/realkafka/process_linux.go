package main

import "syscall"

// ofItsOwn puts the broker into a process group of its own, so that Ctrl-C reaches it through us and
// after the command, and lets the kernel kill it if we are killed.
func ofItsOwn() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
