// Package port finds TCP ports for servers that a test starts by number: other
// programs, and what has to come back at the address it had.
package port

import (
	"math/rand/v2"
	"net"
	"strconv"
	"syscall"
	"testing"
)

// Free returns a host:port of this machine that nobody listens on, and that the
// kernel gives to nobody who asks for any port: it takes those from 32768 up
// (net.ipv4.ip_local_port_range). So whoever it is for can take its time, and can
// end and come back, while other tests listen and dial.
func Free(t testing.TB) string {
	t.Helper()
	// A child that is between fork and exec has the listener too, and with it the port
	// stays taken after we closed ours: so no fork meanwhile.
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	var err error
	for range 100 {
		var l net.Listener
		if l, err = net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(10_000+rand.IntN(20_000))); err == nil {
			defer l.Close()
			return l.Addr().String()
		}
	}
	t.Fatal("no free port: ", err)
	return ""
}
