package runner

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/covey-edge/covey/hal/runner/proto"
	"github.com/covey-edge/covey/hal/runner/sandbox"
)

// What an instance of the unit and the agent say to each other until the one is a
// runner: three packets of JSON on the connection that systemd accepted.

// A here is the instance's first word, with one descriptor: of the journal.
type here struct {
	Invocation string `json:"invocation"` // of the unit, systemd's
}

// An order is what the agent wants, with two descriptors: the runner's socket, and
// where its standard error goes.
type order struct {
	Engine string       `json:"engine"` // names the program; which one it is, the instance knows
	Spec   sandbox.Spec `json:"spec"`
	Env    []string     `json:"env,omitempty"`
}

// A ready is the answer. After it, the instance becomes the runner; all that goes
// wrong from then on is a runner's end.
type ready struct {
	Group string `json:"group,omitempty"` // its cgroup, below the hierarchy's root; "" if it has none
	Error string `json:"error,omitempty"`
}

func (o order) check() error {
	if o.Engine == "" || len(o.Engine) > 32 || strings.Trim(o.Engine, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
		return fmt.Errorf("engine %q: want a name of letters and digits", proto.OneLine(o.Engine))
	}
	if o.Spec.Memory <= 0 {
		return fmt.Errorf("a runner with %d bytes of memory", o.Spec.Memory)
	}
	return nil
}

// UnitStage is the main of an instance of covey-runner@.service. It hears from the
// agent, at the socket that systemd hands it, which runner to become; that it finds
// in a folder of programs, by the engine's name. Then it does as Stage does. It
// returns only an error.
func UnitStage(programs string) error {
	if os.Getenv("LISTEN_PID") != fmt.Sprint(os.Getpid()) || os.Getenv("LISTEN_FDS") != "1" {
		return errors.New("stage: no socket from systemd: covey-runner@.service starts this, by covey-runner.socket")
	}
	const line = 3
	if err := tell(line, here{Invocation: os.Getenv("INVOCATION_ID")}, os.Stderr); err != nil {
		return fmt.Errorf("stage: greet the agent: %w", err)
	}
	var o order
	_, files, err := hear(line, &o)
	if err != nil {
		return fmt.Errorf("stage: hear from the agent: %w", err)
	}
	program, err := o.program(programs)
	if err == nil && len(files) != 2 {
		err = fmt.Errorf("%d descriptors came, want 2", len(files))
	}
	if err != nil {
		return errors.Join(fmt.Errorf("stage: %w", err), tell(line, ready{Error: proto.OneLine(err.Error())}))
	}
	group, _ := sandbox.OwnGroup(o.Spec.Memory) // without, the limits of the process hold
	if err := tell(line, ready{Group: group}); err != nil {
		return fmt.Errorf("stage: answer the agent: %w", err)
	}
	for to, from := range map[int]*os.File{2: files[1], proto.FD: files[0]} { // both are above 3
		if err := unix.Dup3(int(from.Fd()), to, 0); err != nil {
			return fmt.Errorf("stage: take descriptor %d: %w", to, err)
		}
	}
	if err := sandbox.Enter(o.Spec, []string{program}, o.Env); err != nil {
		return fmt.Errorf("stage: %w", err)
	}
	return nil
}

// program is the runner program of the engine in a folder.
func (o order) program(folder string) (string, error) {
	if err := o.check(); err != nil {
		return "", err
	}
	path := filepath.Join(folder, "covey-runner-"+o.Engine)
	if _, err := os.Stat(path); err != nil {
		return "", err
	}
	return path, nil
}

// tell sends one packet, with descriptors.
func tell(line int, v any, files ...*os.File) error {
	packet, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if len(packet) > proto.MaxPacket {
		return fmt.Errorf("a packet of %d bytes", len(packet))
	}
	var fds []int
	for _, f := range files {
		fds = append(fds, int(f.Fd()))
	}
	var oob []byte
	if len(fds) > 0 {
		oob = unix.UnixRights(fds...)
	}
	for {
		if _, err := unix.SendmsgN(line, packet, oob, nil, unix.MSG_NOSIGNAL); err != unix.EINTR {
			return err
		}
	}
}

// maxFiles is how many descriptors a packet has room for; more are an error.
const maxFiles = 4

// hear reads one packet into v: which process it is from, where the socket was asked
// to say so, and what descriptors came with it. They are the caller's even after an
// error.
func hear(line int, v any) (from int, files []*os.File, err error) {
	packet := make([]byte, proto.MaxPacket)
	oob := make([]byte, unix.CmsgSpace(4*maxFiles)+unix.CmsgSpace(unix.SizeofUcred))
	n, oobn, flags := 0, 0, 0
	for {
		if n, oobn, flags, _, err = unix.Recvmsg(line, packet, oob, unix.MSG_CMSG_CLOEXEC); err != unix.EINTR {
			break
		}
	}
	if err != nil {
		return 0, nil, err
	}
	if from, files, err = attached(oob[:oobn]); err != nil {
		return from, files, err
	}
	switch {
	case n == 0:
		return from, files, io.EOF
	case flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0:
		return from, files, errors.New("a packet that is too long")
	}
	return from, files, strict(packet[:n], v)
}

// attached is what came with a packet.
func attached(oob []byte) (from int, files []*os.File, err error) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return 0, nil, err
	}
	for _, m := range messages {
		if m.Header.Level != unix.SOL_SOCKET {
			continue
		}
		switch m.Header.Type {
		case unix.SCM_CREDENTIALS:
			who, err := unix.ParseUnixCredentials(&m)
			if err != nil {
				return 0, files, err
			}
			from = int(who.Pid)
		case unix.SCM_RIGHTS:
			fds, err := unix.ParseUnixRights(&m)
			if err != nil {
				return 0, files, err
			}
			for _, fd := range fds {
				files = append(files, os.NewFile(uintptr(fd), "descriptor"))
			}
		}
	}
	return from, files, nil
}

// strict reads one JSON object that holds nothing unknown, and nothing behind it.
func strict(packet []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(packet))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return err
	}
	if _, err := d.Token(); err != io.EOF {
		return errors.New("there is more behind the object")
	}
	return nil
}

func closeFiles(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}
