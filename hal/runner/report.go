package runner

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"
)

// A report is what systemd knows of the end of an instance, by its own words
// (systemd.exec(5), $SERVICE_RESULT).
type report struct {
	Invocation string `json:"invocation"`
	Result     string `json:"result"` // "success", "signal", "oom-kill", …
	Code       string `json:"code"`   // "exited", "killed", "dumped"
	Status     string `json:"status"` // "7", "SEGV"
}

// maxReport is the most bytes of a report.
const maxReport = 512

// TellEnd is the main of what systemd starts when an instance has ended: it tells
// the agent that listens at a path how. An agent that is gone need not know.
func TellEnd(path string) error {
	packet, err := json.Marshal(report{Invocation: os.Getenv("INVOCATION_ID"), Result: os.Getenv("SERVICE_RESULT"),
		Code: os.Getenv("EXIT_CODE"), Status: os.Getenv("EXIT_STATUS")})
	if err != nil {
		return err
	}
	c, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Net: "unixgram", Name: path})
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ECONNREFUSED) {
		return nil
	}
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.SetWriteDeadline(time.Now().Add(telling)); err != nil {
		return err
	}
	if _, err := c.Write(packet); err != nil && !errors.Is(err, unix.ECONNREFUSED) {
		return err
	}
	return nil
}

// parseReport reads a report: of which instance, and how it ended. What systemd
// could not say is unknown.
func parseReport(packet []byte) (invocation string, e ending, err error) {
	var r report
	if err := strict(packet, &r); err != nil {
		return "", e, err
	}
	if !validInvocation(r.Invocation) {
		return "", e, fmt.Errorf("invocation %q", r.Invocation)
	}
	e.starved = r.Result == "oom-kill"
	switch r.Code {
	case "exited":
		if e.status, err = strconv.Atoi(r.Status); err != nil || e.status < 0 || e.status > 255 {
			return "", ending{}, fmt.Errorf("exit status %q", r.Status)
		}
	case "killed", "dumped":
		if e.signal = signalOf(r.Status); e.signal == 0 {
			return "", ending{}, fmt.Errorf("signal %q", r.Status)
		}
	default:
		e = ending{unknown: true}
	}
	return r.Invocation, e, nil
}

// signalOf is the signal of a name as systemd writes it: "SEGV".
func signalOf(name string) syscall.Signal {
	if s := unix.SignalNum("SIG" + name); s != 0 {
		return s
	}
	if n, err := strconv.Atoi(name); err == nil && n > 0 && n < 65 {
		return syscall.Signal(n)
	}
	return 0
}

// A reports hears how instances ended.
type reports struct {
	conn *net.UnixConn
	done chan struct{}

	mu      sync.Mutex
	waiting map[string]chan ending // by the invocation; each has room for its one report
}

// listen makes a socket at path, instead of what an agent left there that was killed.
func listen(path string, log zerolog.Logger) (*reports, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Net: "unixgram", Name: path})
	if err != nil {
		return nil, fmt.Errorf("hear how runners ended: %w", err)
	}
	r := &reports{conn: conn, done: make(chan struct{}), waiting: map[string]chan ending{}}
	go r.hear(log)
	return r, nil
}

func (r *reports) close() error {
	err := r.conn.Close()
	<-r.done
	return err
}

// hear passes reports on until the socket is closed.
func (r *reports) hear(log zerolog.Logger) {
	defer close(r.done)
	packet := make([]byte, maxReport+1)
	for {
		n, err := r.conn.Read(packet)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil && n > maxReport {
			err = errors.New("it is too long")
		}
		var invocation string
		var e ending
		if err == nil {
			invocation, e, err = parseReport(packet[:n])
		}
		if err != nil {
			log.Warn().Err(err).Msg("how a runner ended was told in words that are not known")
			continue
		}
		r.pass(invocation, e)
	}
}

// pass gives a report to whom it concerns. Others, and second ones, are of no use.
func (r *reports) pass(invocation string, e ending) {
	r.mu.Lock()
	defer r.mu.Unlock()
	select {
	case r.waiting[invocation] <- e: // of nobody: never
	default:
	}
}

// expect is where the report of an instance will be.
func (r *reports) expect(invocation string) chan ending {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := make(chan ending, 1)
	r.waiting[invocation] = c
	return c
}

func (r *reports) forget(invocation string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.waiting, invocation)
}
