package iio

import (
	"encoding/binary"
	"os"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/covey-edge/covey/hal"
	"github.com/covey-edge/covey/hal/haltest"
)

// TestKernelDevice reads a converter through the kernel: its driver of the INA219,
// on a bus whose chips are tables of registers (i2c-stub).
func TestKernelDevice(t *testing.T) {
	if !haltest.InVM() {
		haltest.VM(t, haltest.Machine{Modules: []string{"i2c-stub chip_addr=0x40", "i2c-dev", "ina2xx-adc"}})
		return
	}
	const bus = 2                     // the register of the bus voltage: units of 4 mV above 3 bits of flags
	setRegister(t, bus, 3000<<3|1<<1) // 12 V, and a conversion is ready
	if err := os.WriteFile("/sys/bus/i2c/devices/i2c-0/new_device", []byte("ina219 0x40"), 0); err != nil {
		t.Fatal(err)
	}
	found := Probe(os.DirFS("/"))
	t.Logf("%+v", found)
	if len(found) != 1 || found[0].ID != "ina219@0-0040" {
		t.Fatalf("probe: %+v", found)
	}
	var f hal.Frame
	s := open(t, Config{Device: "ina219@0-0040", Channels: []string{"voltage1", "voltage0"}, Window: 20})
	if s.Polled() != nil {
		t.Errorf("polled: %v", s.Polled())
	}
	for range 3 {
		if err := s.Next(t.Context(), &f); err != nil {
			t.Fatal(err)
		}
		if age := time.Since(f.Captured); f.Channels != 2 || f.Samples[0] != 12000 || f.Samples[1] != 0 || age < 0 || age > 2*time.Second {
			t.Errorf("%d channels, %v mV and %v mV, %v ago", f.Channels, f.Samples[0], f.Samples[1], age)
		}
	}
	t.Logf("%v samples a second", f.Rate)
	if err := s.Close(); err != nil {
		t.Error(err)
	}

	if err := os.Remove("/dev/iio:device0"); err != nil {
		t.Fatal(err)
	}
	p := open(t, Config{Device: "ina219", Channels: []string{"voltage1"}, Rate: 100, Window: 2})
	setRegister(t, bus, 2500<<3|1<<1)
	if err := p.Next(t.Context(), &f); err != nil || p.Polled() == nil || f.Samples[1] != 10000 {
		t.Errorf("polled (%v): %v mV, %v", p.Polled(), f.Samples, err)
	}
	if err := os.WriteFile("/sys/bus/i2c/devices/i2c-0/delete_device", []byte("0x40"), 0); err != nil {
		t.Fatal(err)
	}
	if err := p.Next(t.Context(), &f); hal.CodeOf(err) != hal.CodeSourceLost {
		t.Errorf("gone: %v", err)
	}
}

// setRegister writes a register of 16 bits of the chip at 0x40 (linux/i2c-dev.h).
func setRegister(t *testing.T, register byte, value uint16) {
	t.Helper()
	f, err := os.OpenFile("/dev/i2c-0", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	const slaveForce, smbus, wordData = 0x0706, 0x0720, 3
	var data [34]byte
	binary.BigEndian.PutUint16(data[:], value) // the chip has the high byte first, SMBus the low one
	request := struct {
		read, command byte
		size          uint32
		data          *[34]byte
	}{0, register, wordData, &data}
	if err := unix.IoctlSetInt(int(f.Fd()), slaveForce, 0x40); err != nil {
		t.Fatal(err)
	}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), smbus, uintptr(unsafe.Pointer(&request))); errno != 0 {
		t.Fatal(errno)
	}
}
