package health

import (
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"
)

// A Notifier speaks to the service manager that started this program (sd_notify(3)).
// The zero value speaks to nobody.
type Notifier struct {
	Socket string // $NOTIFY_SOCKET: a path, or a name in the abstract namespace behind an @
}

// Manager is what the environment says about the service manager: how to speak to it, and
// within what time its watchdog wants to hear from this process (0: there is none).
func Manager(getenv func(string) string, pid int) (Notifier, time.Duration) {
	n := Notifier{Socket: getenv("NOTIFY_SOCKET")}
	if owner := getenv("WATCHDOG_PID"); n.Socket == "" || owner != "" && owner != strconv.Itoa(pid) {
		return n, 0
	}
	const most = 24 * time.Hour
	usec, err := strconv.ParseInt(getenv("WATCHDOG_USEC"), 10, 64)
	if err != nil || usec <= 0 || usec > most.Microseconds() {
		return n, 0
	}
	return n, time.Duration(usec) * time.Microsecond
}

// ManagerVariables are what Manager reads. They are meant for this process, and not for
// those that it starts.
var ManagerVariables = []string{"NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC"}

// notifyTime is how long a manager may take to take a word: one that is stuck must not
// hold up who speaks to it.
const notifyTime = time.Second

// maxStatus is the longest line, bytes.
const maxStatus = 400

// Send sends one datagram of assignments, as in READY=1. A socket is opened for each:
// the manager may have been replaced meanwhile.
func (n Notifier) Send(assignments ...string) error {
	if n.Socket == "" || len(assignments) == 0 {
		return nil
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: n.Socket, Net: "unixgram"})
	if err != nil {
		return fmt.Errorf("notify the service manager: %w", err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(notifyTime)); err != nil {
		return fmt.Errorf("notify the service manager: %w", err)
	}
	if _, err := conn.Write([]byte(strings.Join(assignments, "\n"))); err != nil {
		return fmt.Errorf("notify the service manager: %w", err)
	}
	return nil
}

// status is the assignment of a line for people.
func status(text string) string {
	text = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, text)
	if len(text) > maxStatus {
		text = strings.ToValidUTF8(text[:maxStatus], "") + "…"
	}
	return "STATUS=" + text
}
