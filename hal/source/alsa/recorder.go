package alsa

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/covey-edge/covey/hal"
)

// A recorder is a running arecord.
type recorder struct {
	cmd         *exec.Cmd
	out, err    *os.File
	said        []byte // the end of what it said and was not told yet
	rate        int    // that it records at
	overruns    uint64
	interrupted bool // there was an overrun since this was last cleared
}

// mostSaid is the bytes of a program's messages that are kept.
const mostSaid = 4 << 10

// start runs arecord.
func start(program string, args ...string) (*recorder, error) {
	cmd := exec.Command(program, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")            // its messages are read
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // a signal to the agent's group is not for it
	r := &recorder{cmd: cmd}
	out, outW, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer outW.Close()
	errs, errW, err := os.Pipe()
	if err != nil {
		out.Close()
		return nil, err
	}
	defer errW.Close()
	cmd.Stdout, cmd.Stderr = outW, errW
	r.out, r.err = out, errs
	if err := cmd.Start(); err != nil {
		out.Close()
		errs.Close()
		if errors.Is(err, exec.ErrNotFound) || errors.Is(err, os.ErrNotExist) {
			return nil, errors.New("there is no arecord: run apt-get install alsa-utils")
		}
		return nil, err
	}
	return r, nil
}

// close ends the program and all it may have started.
func (r *recorder) close() {
	unix.Kill(-r.cmd.Process.Pid, unix.SIGKILL)
	r.out.Close()
	r.err.Close()
	r.cmd.Wait()
}

// errEnded says that the program has ended.
var errEnded = errors.New("arecord ended")

// read waits for sound, until due at most (os.ErrDeadlineExceeded).
func (r *recorder) read(ctx context.Context, b []byte, due time.Time) (int, error) {
	for {
		r.out.SetReadDeadline(due)
		stop := context.AfterFunc(ctx, func() { r.out.SetReadDeadline(time.Unix(1, 0)) })
		n, err := r.out.Read(b)
		stop()
		r.listen()
		switch {
		case n > 0:
			return n, nil
		case ctx.Err() != nil:
			return 0, ctx.Err()
		case !errors.Is(err, os.ErrDeadlineExceeded):
			return 0, errEnded
		case !time.Now().Before(due):
			return 0, err
		}
		// The end of an earlier ctx came late.
	}
}

var accurate = regexp.MustCompile(`got = (\d+) ?Hz`)

// listen takes in what the program has said by now, without waiting. What it says
// of its setup is said before the first sound.
func (r *recorder) listen() {
	raw, err := r.err.SyscallConn()
	if err != nil {
		return
	}
	b := make([]byte, 0)
	raw.Read(func(fd uintptr) bool {
		var buf [1 << 10]byte
		for {
			n, err := unix.Read(int(fd), buf[:])
			if n <= 0 || err != nil {
				return true
			}
			b = append(b, buf[:n]...)
			b = b[max(0, len(b)-64<<10):]
		}
	})
	if len(b) == 0 {
		return
	}
	if n := bytes.Count(b, []byte("overrun!!!")); n > 0 {
		r.overruns += uint64(n)
		r.interrupted = true
	}
	r.said = append(r.said, b...)
	r.said = r.said[max(0, len(r.said)-mostSaid):]
	if m := accurate.FindSubmatch(b); m != nil {
		if rate, err := strconv.Atoi(string(m[1])); err == nil {
			r.rate = rate
		}
	}
}

// ask runs arecord for what it says, not for its sound.
func ask(ctx context.Context, program string, limit time.Duration, args ...string) (string, error) {
	r, err := start(program, args...)
	if err != nil {
		return "", err
	}
	defer r.close()
	due := time.Now().Add(limit)
	var b [1 << 10]byte
	for {
		if _, err := r.read(ctx, b[:], due); err == errEnded {
			return string(r.said), nil
		} else if err != nil {
			return "", err
		}
	}
}

// explain says in a line why arecord could not record, from what it said.
func explain(said string) string {
	lines := strings.Split(strings.TrimSpace(said), "\n")
	last := lines[len(lines)-1]
	for _, known := range []struct{ words, means string }{
		{"Device or resource busy", "another program has it (often pulseaudio or pipewire): end that one, or use its device"},
		{"Permission denied", "not allowed: give the service what covey-agent unit prints (by hand: usermod -aG audio covey) and restart it"},
		{"No such file or directory", "there is no such device: plug it in; covey-agent probe lists what is there"},
		{"No such device", "there is no such device: plug it in; covey-agent probe lists what is there"},
		{"Unknown PCM", "there is no such device: plug it in; covey-agent probe lists what is there"},
	} {
		if strings.Contains(last, known.words) {
			return known.means
		}
	}
	if last == "" {
		return "arecord ended without a word"
	}
	return fmt.Sprintf("arecord says %.200q", last)
}

func failed(code hal.Code, device, text string) error {
	return &hal.Error{Code: code, Text: fmt.Sprintf("microphone %s: %s", device, text)}
}
