package serial

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/covey-edge/covey/hal"
)

// A port is an open terminal device.
func openPort(device string, baud int) (*os.File, error) {
	fd, err := unix.Open(device, unix.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err == nil {
		if err = setup(fd, baud); err != nil {
			unix.Close(fd)
		}
	}
	if err != nil {
		return nil, &hal.Error{Code: hal.CodeSource, Text: fmt.Sprintf("serial port %s: %s", device, explain(err)), Err: err}
	}
	return os.NewFile(uintptr(fd), device), nil
}

func explain(err error) string {
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENXIO), errors.Is(err, unix.ENODEV):
		return "it is not there: plug it in; covey-agent probe lists what is"
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		return "not allowed: give the service what covey-agent unit prints (by hand: usermod -aG dialout covey) and restart it"
	case errors.Is(err, unix.EBUSY):
		return "another program has it: end that one"
	case errors.Is(err, unix.ENOTTY):
		return "this is no serial port: covey-agent probe lists those"
	}
	return err.Error()
}

// setup makes the port give bytes as they come, at any rate that its driver can do.
func setup(fd, baud int) error {
	t, err := unix.IoctlGetTermios(fd, unix.TCGETS2)
	if err != nil {
		return err
	}
	raw(t, uint32(baud))
	if err := unix.IoctlSetTermios(fd, unix.TCSETS2, t); err != nil {
		return err
	}
	// A driver that cannot do a rate takes another one without a word.
	if t, err = unix.IoctlGetTermios(fd, unix.TCGETS2); err != nil {
		return err
	}
	if got := int(t.Ospeed); got < baud-baud/32 || got > baud+baud/32 {
		return fmt.Errorf("it does %d baud where %d was asked: give a rate that it can do", got, baud)
	}
	if err := unix.IoctlSetInt(fd, unix.TIOCEXCL, 0); err != nil { // two readers would halve the lines
		return err
	}
	return unix.IoctlSetInt(fd, unix.TCFLSH, unix.TCIFLUSH) // what came before is old
}

// raw is 8 bits, no parity, one stop bit, no flow control, no lines, no echo.
func raw(t *unix.Termios, baud uint32) {
	t.Iflag = unix.IGNBRK | unix.IGNPAR
	t.Oflag, t.Lflag = 0, 0
	// Without HUPCL a board that resets at a hang-up is not reset by a reopening.
	t.Cflag = unix.CS8 | unix.CREAD | unix.CLOCAL | unix.BOTHER
	t.Ispeed, t.Ospeed = baud, baud
	t.Cc[unix.VMIN], t.Cc[unix.VTIME] = 1, 0 // a read of nothing is EAGAIN, not the end
}
