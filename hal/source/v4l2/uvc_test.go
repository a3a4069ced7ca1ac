package v4l2

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"image"
	"image/color"
	"image/jpeg"
	"io"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/covey-edge/covey/hal"
	"github.com/covey-edge/covey/hal/haltest"
)

// A webcam is a USB camera (USB Video Class 1.0, over a bulk endpoint) that speaks
// USB/IP with the kernel's virtual host controller: uvcvideo, the driver of nearly
// all USB cameras, takes it for one that is plugged in.
type webcam struct {
	serial  string
	picture func(n int) []byte // what MJPEG sends
	mute    atomic.Bool        // it sends no more pictures

	port   int
	conn   *os.File
	ended  chan error
	probe  [26]byte // what was negotiated
	frame  []byte   // what is left of a picture
	frames int
	due    time.Time
	held   map[uint32]bool // requests that a mute camera does not answer
}

const vhci = "/sys/devices/platform/vhci_hcd.0/"

// plug plugs it into a port of the virtual controller.
func (w *webcam) plug(t *testing.T, port int) {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	w.port, w.conn, w.ended, w.held = port, os.NewFile(uintptr(pair[0]), "usbip"), make(chan error, 1), map[uint32]bool{}
	w.frame, w.due = nil, time.Now()
	go func() { w.ended <- w.serve() }()
	const highSpeed = 3
	if err := os.WriteFile(vhci+"attach", fmt.Appendf(nil, "%d %d %d %d", port, pair[1], 1<<16|port, highSpeed), 0); err != nil {
		t.Fatal(err)
	}
	unix.Close(pair[1]) // the kernel has it
}

// unplug pulls it out.
func (w *webcam) unplug(t *testing.T) {
	t.Helper()
	if err := os.WriteFile(vhci+"detach", fmt.Append(nil, w.port), 0); err != nil {
		t.Fatal(err)
	}
	if err := <-w.ended; err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, unix.ECONNRESET) && !errors.Is(err, unix.EPIPE) {
		t.Errorf("the camera ended with %v", err)
	}
	w.conn.Close()
}

// serve answers requests, one after the other. A header has 48 bytes, big-endian
// (Documentation/usb/usbip_protocol.rst).
func (w *webcam) serve() error {
	const submit, unlink, submitted, unlinked = 1, 2, 3, 4
	const stalled, reset = ^uint32(31), ^uint32(103) // -EPIPE, -ECONNRESET
	for {
		var h [48]byte
		if _, err := io.ReadFull(w.conn, h[:]); err != nil {
			return err
		}
		word := func(at int) uint32 { return binary.BigEndian.Uint32(h[at:]) }
		seq, in, endpoint, length := word(4), word(12) == 1, word(16), word(24)
		answer := func(command, status uint32, data []byte, took int) error {
			var r [48]byte
			binary.BigEndian.PutUint32(r[0:], command)
			binary.BigEndian.PutUint32(r[4:], seq)
			binary.BigEndian.PutUint32(r[20:], status)
			binary.BigEndian.PutUint32(r[24:], uint32(took))
			_, err := w.conn.Write(append(r[:], data...))
			return err
		}
		var err error
		switch {
		case word(0) == unlink:
			status := uint32(0) // it was answered already
			if victim := word(20); w.held[victim] {
				delete(w.held, victim)
				status = reset
			}
			err = answer(unlinked, status, nil, 0)
		case endpoint == 0:
			out := make([]byte, 0)
			if !in {
				out = make([]byte, length)
				if _, err := io.ReadFull(w.conn, out); err != nil {
					return err
				}
			}
			data, ok := w.control(h[40:48], out)
			data = data[:min(len(data), int(length))]
			switch {
			case !ok:
				err = answer(submitted, stalled, nil, 0)
			case in:
				err = answer(submitted, 0, data, len(data))
			default:
				err = answer(submitted, 0, nil, len(out))
			}
		case w.mute.Load():
			w.held[seq] = true
		default:
			data := w.payload(int(length))
			err = answer(submitted, 0, data, len(data))
		}
		if err != nil {
			return err
		}
	}
}

// control answers a request to the device itself.
func (w *webcam) control(setup, out []byte) (data []byte, ok bool) {
	kind, request, value, index := setup[0], setup[1], binary.LittleEndian.Uint16(setup[2:]), binary.LittleEndian.Uint16(setup[4:])
	switch {
	case kind == 0x80 && request == 6: // GET_DESCRIPTOR
		return w.descriptor(value)
	case kind&0x60 == 0 && kind&0x80 != 0:
		return []byte{0, 0}, true // GET_STATUS and such
	case kind&0x60 == 0:
		return nil, true // SET_CONFIGURATION, SET_INTERFACE, CLEAR_FEATURE
	case index != 1 || value>>8 > 2:
		return nil, false // it has no controls
	case kind == 0x21: // SET_CUR
		copy(w.probe[:], out)
		w.frame, w.due = nil, time.Now()
		return nil, true
	}
	switch request {
	case 0x85: // GET_LEN
		return []byte{26, 0}, true
	case 0x86: // GET_INFO
		return []byte{3}, true
	}
	p := w.probe
	p[2], p[3] = max(1, p[2]), 1
	binary.LittleEndian.PutUint32(p[4:], uvcInterval)
	binary.LittleEndian.PutUint32(p[18:], uvcMost)
	binary.LittleEndian.PutUint32(p[22:], 16<<10) // of one request
	return p[:], true
}

// What the camera has: one size, thirty times a second.
const (
	uvcWidth, uvcHeight = 320, 240
	uvcInterval         = 333333 // of 100 ns
	uvcMost             = uvcWidth * uvcHeight * 2
)

func (w *webcam) descriptor(value uint16) (data []byte, ok bool) {
	texts := []string{"", "Covey", "Test Camera", w.serial}
	le := binary.LittleEndian
	switch value >> 8 {
	case 1: // device
		return []byte{18, 1, 0, 2, 0xef, 2, 1, 64, 0x6d, 0x04, 0x25, 0x08, 0, 1, 1, 2, 3, 1}, true
	case 2: // configuration
		frame := func(subtype byte) []byte {
			b := []byte{30, 0x24, subtype, 1, 0}
			b = le.AppendUint16(le.AppendUint16(b, uvcWidth), uvcHeight)
			b = le.AppendUint32(le.AppendUint32(b, uvcMost*8*30), uvcMost*8*30)
			b = le.AppendUint32(le.AppendUint32(b, uvcMost), uvcInterval)
			return le.AppendUint32(append(b, 1), uvcInterval)
		}
		terminals := concat(
			[]byte{18, 0x24, 2, 1, 0x01, 0x02, 0, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0}, // camera, without controls
			[]byte{9, 0x24, 3, 3, 0x01, 0x01, 0, 1, 0})                             // out to USB
		formats := concat(
			[]byte{11, 0x24, 6, 1, 1, 1, 1, 0, 0, 0, 0}, frame(7), []byte{6, 0x24, 13, 1, 1, 4}, // MJPEG
			append(append([]byte{27, 0x24, 4, 2, 1}, "YUY2\x00\x00\x10\x00\x80\x00\x00\xaa\x00\x38\x9b\x71"...), 16, 1, 0, 0, 0, 0), frame(5), []byte{6, 0x24, 13, 1, 1, 4})
		all := concat(
			[]byte{8, 11, 0, 2, 14, 3, 0, 0},                                                     // the two interfaces belong together
			[]byte{9, 4, 0, 0, 0, 14, 1, 0, 0},                                                   // video control
			[]byte{13, 0x24, 1, 0, 1, byte(13 + len(terminals)), 0, 0, 0, 0, 0, 1, 1}, terminals, // its header
			[]byte{9, 4, 1, 0, 1, 14, 2, 0, 0}, // video streaming
			[]byte{15, 0x24, 1, 2, byte(15 + len(formats)), 0, 0x81, 0, 3, 0, 0, 0, 1, 0, 0}, formats,
			[]byte{7, 5, 0x81, 2, 0, 2, 0})
		return append(le.AppendUint16([]byte{9, 2}, uint16(9+len(all))), append([]byte{2, 1, 0, 0x80, 50}, all...)...), true
	case 3: // text
		n := int(value & 0xff)
		if n == 0 {
			return []byte{4, 3, 9, 4}, true
		}
		if n >= len(texts) {
			return nil, false
		}
		b := []byte{byte(2 + 2*len(texts[n])), 3}
		for _, c := range []byte(texts[n]) {
			b = append(b, c, 0)
		}
		return b, true
	}
	return nil, false
}

func concat(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

// payload is the next piece of a picture, with its header: whose it is (each picture
// changes the bit), and whether it is the last.
func (w *webcam) payload(most int) []byte {
	if len(w.frame) == 0 {
		time.Sleep(time.Until(w.due))
		w.due = time.Now().Add(uvcInterval * 100)
		w.frames++
		if w.frame = w.picture(w.frames); w.probe[2] == 2 {
			w.frame = bytes.Repeat([]byte{81, 90, 81, 240}, uvcWidth*uvcHeight/2) // red
		}
	}
	n := min(len(w.frame), most-2)
	flags := byte(0x80 | w.frames&1)
	if n == len(w.frame) {
		flags |= 2
	}
	data := append([]byte{2, flags}, w.frame[:n]...)
	w.frame = w.frame[n:]
	return data
}

// bluish is a JPEG as cameras send it: without Huffman tables, which are the usual
// ones in what image/jpeg writes.
func bluish(t testing.TB) []byte {
	t.Helper()
	m := image.NewRGBA(image.Rect(0, 0, uvcWidth, uvcHeight))
	for i := range uvcWidth * uvcHeight {
		m.Set(i%uvcWidth, i/uvcWidth, color.RGBA{20, 40, 200, 255})
	}
	var b bytes.Buffer
	if err := jpeg.Encode(&b, m, nil); err != nil {
		t.Fatal(err)
	}
	whole := b.Bytes()
	without := bytes.Clone(whole[:2])
	for at := 2; ; {
		n := 2 + int(binary.BigEndian.Uint16(whole[at+2:]))
		switch whole[at+1] {
		case 0xda: // the data
			return append(without, whole[at:]...)
		case 0xc4: // the tables
		default:
			without = append(without, whole[at:at+n]...)
		}
		at += n
	}
}

// appears waits until a camera can be found.
func appears(t *testing.T, id string) {
	t.Helper()
	for began := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		path, err := find(os.DirFS("/"), id)
		if err == nil {
			if _, err = os.Stat(path); err == nil {
				return
			}
		}
		if time.Since(began) > 20*time.Second {
			t.Fatalf("camera %s does not appear: %v", id, err)
		}
	}
}

// testWebcam is the kernel's driver of USB cameras with a camera that is plugged in,
// sends MJPEG without tables, broken pictures, falls silent, and is pulled out and
// plugged in elsewhere.
func testWebcam(t *testing.T) {
	t.Parallel()
	good := bluish(t)
	var sends atomic.Pointer[[]byte]
	sends.Store(&good)
	cam := &webcam{serial: "A1B2 C3", picture: func(n int) []byte { return *sends.Load() }}
	const id = "usb-046d:0825-A1B2_C3"
	cam.plug(t, 0)
	appears(t, id)
	before, err := find(os.DirFS("/"), id)
	if found := probed(id); err != nil || !strings.HasPrefix(found.Name, "Test Camera") || found.Detail != before+": mjpeg 320×240@30; yuyv 320×240@30" {
		t.Errorf("probe: %+v, %v", found, err)
	}

	for _, format := range []string{"", "mjpeg"} {
		haltest.Source(t, func(t *testing.T) hal.Source { return open(t, Config{Device: id, Format: format}) })
	}
	var f hal.Frame
	for format, want := range map[string][3]int{"yuyv": {255, 0, 0}, "mjpeg": {20, 40, 200}} {
		s := open(t, Config{Device: id, Format: format})
		next(t, s, &f)
		if got := rgb(t, &f)[3]; max(got[0]-want[0], want[0]-got[0], got[1]-want[1], want[1]-got[1], got[2]-want[2], want[2]-got[2]) > 4 {
			t.Errorf("%s: %v, want %v", format, got, want)
		}
		if (format == "yuyv") != f.Limited {
			t.Errorf("%s: limited=%v", format, f.Limited)
		}
		s.Close()
	}

	// One that sends 30 a second and cannot send fewer is not silent while few are wished.
	s := open(t, Config{Device: id, FPS: .4})
	next(t, s, &f)
	first := f.Captured
	next(t, s, &f)
	if apart := f.Captured.Sub(first); apart < 2*time.Second || apart > 3500*time.Millisecond {
		t.Errorf("two pictures at 0.4 a second are %v apart", apart)
	}
	s.Close()

	c := Config{Device: id, Format: "mjpeg"}
	s = open(t, c)
	next(t, s, &f)
	bad := good[:len(good)/2]
	sends.Store(&bad)
	for err = nil; err == nil; { // some good ones are still under way
		err = s.Next(t.Context(), &f)
	}
	if !errors.Is(err, hal.ErrBadFrame) || hal.CodeOf(err) != hal.CodeImage {
		t.Errorf("cut short: %v", err)
	}
	t.Log(err)
	if took, err := until(t, s, 10*time.Second); hal.CodeOf(err) != hal.CodeSourceStalled || took > 4*time.Second {
		t.Errorf("all are cut short: %v after %v", err, took)
	}
	s.Close()
	sends.Store(&good)

	s = open(t, c)
	next(t, s, &f)
	cam.mute.Store(true)
	took, err := until(t, s, 10*time.Second)
	if hal.CodeOf(err) != hal.CodeSourceStalled || took < minQuiet-100*time.Millisecond || took > 4*time.Second {
		t.Errorf("silent: %v after %v", err, took)
	}
	cam.mute.Store(false)
	s.Close()

	s = open(t, c)
	next(t, s, &f)
	pulled := make(chan struct{})
	go func() { cam.unplug(t); close(pulled) }()
	took, err = until(t, s, 10*time.Second)
	if hal.CodeOf(err) != hal.CodeSourceLost || took > 2*time.Second {
		t.Errorf("unplugged: %v after %v", err, took)
	}
	t.Logf("%v after %v", err, took)
	<-pulled
	if _, err := Open(c); hal.CodeOf(err) != hal.CodeSource || !strings.Contains(err.Error(), "not there") {
		t.Errorf("opened while it is away: %v", err)
	}
	cam.plug(t, 3)
	appears(t, id)
	if path, _ := find(os.DirFS("/"), id); path == before {
		t.Errorf("it is %s again: this test shows nothing", path)
	}
	again := open(t, c)
	next(t, again, &f)
	again.Close()
	s.Close()
	cam.unplug(t)
}
