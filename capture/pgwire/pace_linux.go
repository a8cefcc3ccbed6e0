package pgwire

import (
	"errors"
	"net"
	"syscall"
)

// lowatOf gives what sets from how many bytes on a connection is reported to have data; nil if it has no
// such thing.
func lowatOf(c net.Conn) func(bytes int) error {
	tcp, ok := c.(*net.TCPConn)
	if !ok {
		return nil
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return nil
	}
	return func(bytes int) error {
		var err error
		return errors.Join(raw.Control(func(fd uintptr) {
			err = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVLOWAT, bytes)
		}), err)
	}
}
