package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"github.com/covey-edge/covey/agent/internal/uplink"
	"github.com/covey-edge/covey/hal"
)

// Hold keeps agents from using a data folder until it is let go. E_STATE_LOCKED: one
// does, and goes on.
func Hold(data string) (letGo func(), err error) {
	path := uplink.Path(data)
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return func() {}, nil // no agent has ever used it
	}
	if err != nil {
		return nil, fmt.Errorf("look whether an agent uses %s: %w", data, err)
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) // as its database does
	if err == nil {
		return func() { f.Close() }, nil
	}
	f.Close()
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil, &hal.Error{Code: hal.CodeStateLocked, Text: "an agent uses " + data + ": stop it first: sudo systemctl stop covey-agent", Err: err}
	}
	return nil, fmt.Errorf("lock %s: %w", path, err)
}
