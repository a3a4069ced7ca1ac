package gpio

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/covey-edge/covey/hal"
	"github.com/covey-edge/covey/hal/haltest"
)

// TestKernelChip reads a GPIO chip of the kernel: its driver of the CP2112, a chip
// with eight lines behind USB, whose place this test takes through /dev/uhid.
func TestKernelChip(t *testing.T) {
	if !haltest.InVM() {
		haltest.VM(t, haltest.Machine{Modules: []string{"uhid", "hid-cp2112"}})
		return
	}
	dev := plugIn(t)
	chips := Probe(os.DirFS("/"))
	for deadline := time.Now().Add(20 * time.Second); len(chips) == 0 && time.Now().Before(deadline); chips = Probe(os.DirFS("/")) {
		time.Sleep(20 * time.Millisecond)
	}
	want := []hal.Input{{Source: "gpio", ID: "cp2112_gpio", Name: "cp2112_gpio", Detail: "8 lines"}}
	if !slices.Equal(chips, want) {
		t.Fatalf("probe: %+v", chips)
	}
	s, err := Open(Config{Device: want[0].ID, Lines: []string{"2", "5"}})
	if err != nil {
		t.Fatal(err)
	}
	if !s.edges {
		t.Error("the chip is polled")
	}
	if _, err := Open(Config{Device: "gpiochip0", Lines: []string{"5"}}); hal.CodeOf(err) != hal.CodeSource || !strings.Contains(err.Error(), "gpioinfo") {
		t.Errorf("taken twice: %v", err)
	}
	if _, err := Open(Config{Device: want[0].ID, Lines: []string{"8"}}); hal.CodeOf(err) != hal.CodeSource || !strings.Contains(err.Error(), `8 lines and no line "8"`) {
		t.Errorf("no such line: %v", err)
	}
	var f hal.Frame
	for i, step := range []struct {
		lines uint32
		want  []float32
	}{{0, []float32{0, 0}}, {0b100, []float32{1, 0}}, {0b100100, []float32{1, 1}}, {0b100000, []float32{0, 1}}} {
		dev.lines.Store(step.lines) // the driver looks every 10 ms
		if err := s.Next(t.Context(), &f); err != nil {
			t.Fatal(err)
		}
		if age := time.Since(f.Captured); !slices.Equal(f.Samples, step.want) || age < 0 || age > 5*time.Second || f.Seq != uint64(i+1) {
			t.Errorf("step %d: %v, want %v; %v ago", i, f.Samples, step.want, age)
		}
	}
	dev.file.Close() // unplugged
	err = s.Next(t.Context(), &f)
	if hal.CodeOf(err) != hal.CodeSourceLost {
		t.Errorf("unplugged: %v", err)
	}
	t.Log(err)
	s.Close()
	if _, err := Open(Config{Device: want[0].ID, Lines: []string{"2"}}); hal.CodeOf(err) != hal.CodeSource || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("opened while it is away: %v", err)
	}
}

// A device answers as a CP2112 does.
type device struct {
	file  *os.File
	lines atomic.Uint32 // their levels
}

// Events of /dev/uhid (include/uapi/linux/uhid.h).
const (
	uhidGetReport      = 9
	uhidGetReportReply = 10
	uhidCreate2        = 11
	uhidSetReport      = 13
	uhidSetReportReply = 14
)

func plugIn(t *testing.T) *device {
	t.Helper()
	file, err := os.OpenFile("/dev/uhid", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	d := &device{file: file}
	order := binary.NativeEndian
	// One vendor's report of 63 bytes.
	descriptor := []byte{0x06, 0x00, 0xff, 0x09, 0x01, 0xa1, 0x01, 0x85, 0x01, 0x09, 0x01, 0x15, 0x00, 0x26, 0xff, 0x00, 0x75, 0x08, 0x95, 0x3f, 0xb1, 0x02, 0xc0}
	b := order.AppendUint32(nil, uhidCreate2)
	b = append(b, make([]byte, 128+64+64)...)
	copy(b[4:], "CP2112")
	b = order.AppendUint16(b, uint16(len(descriptor)))
	b = order.AppendUint16(b, 3) // USB
	for _, v := range []uint32{0x10c4, 0xea90, 1, 0} {
		b = order.AppendUint32(b, v)
	}
	b = append(b, descriptor...)
	if _, err := file.Write(b); err != nil {
		t.Fatal(err)
	}
	go d.answer()
	return d
}

// answer ends when the device is unplugged.
func (d *device) answer() {
	order := binary.NativeEndian
	b := make([]byte, 8<<10)
	for {
		n, err := d.file.Read(b)
		if err != nil || n < 12 {
			return
		}
		id := b[4:8]
		switch order.Uint32(b) {
		case uhidGetReport:
			size := map[byte]int{2: 5, 3: 2, 5: 3, 6: 14}[b[8]]
			report := make([]byte, size+1)[:max(size, 1)]
			report[0] = b[8]
			if b[8] == 3 {
				report[1] = byte(d.lines.Load())
			}
			reply := bytes.Join([][]byte{order.AppendUint32(nil, uhidGetReportReply), id, {0, 0}, order.AppendUint16(nil, uint16(len(report))), report}, nil)
			d.file.Write(reply)
		case uhidSetReport:
			d.file.Write(bytes.Join([][]byte{order.AppendUint32(nil, uhidSetReportReply), id, {0, 0}}, nil))
		}
	}
}
