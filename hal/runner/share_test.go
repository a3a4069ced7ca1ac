package runner

import (
	"encoding/binary"
	"errors"
	"math"
	"strings"
	"sync"
	"testing"
	"testing/fstest"

	"github.com/covey-edge/covey/hal"
)

func openOn(t *testing.T, e *Engine, a hal.Accelerator) hal.Session {
	t.Helper()
	s, err := e.Open(t.Context(), someModel(t), hal.Options{Accelerator: a})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// process is the number of the process that runs a session.
func processOf(t *testing.T, s hal.Session) uint32 {
	t.Helper()
	s.Input(0, 0)[0] = 1
	if _, err := s.Run(0); err != nil {
		t.Fatal(err)
	}
	return binary.LittleEndian.Uint32(s.Output(0, 0).Data[4:])
}

// TestExclusiveDevice: sessions on an Edge TPU share a runner, those on the CPU do
// not; a closed one leaves the others alone, the last one takes the runner with it.
func TestExclusiveDevice(t *testing.T) {
	e := bad(t, "shared")
	one, two, cpu := openOn(t, e, hal.EdgeTPU), openOn(t, e, hal.EdgeTPU), openOn(t, e, hal.CPU)
	pid := processOf(t, one)
	if other := processOf(t, two); other != pid {
		t.Errorf("two sessions on one Edge TPU run in processes %d and %d", pid, other)
	}
	if other := processOf(t, cpu); other == pid {
		t.Error("a session on the CPU shares its process")
	}
	var all sync.WaitGroup
	for _, s := range []hal.Session{one, two} {
		all.Go(func() {
			for range 200 {
				if _, err := s.Run(0); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	if err := one.Close(); err != nil {
		t.Error(err)
	}
	if _, err := one.Run(0); !errors.Is(err, hal.ErrLost) {
		t.Errorf("run of a closed session: %v", err)
	}
	if other := processOf(t, two); other != pid {
		t.Error("the runner ended with the first of its sessions")
	}
	if three := openOn(t, e, hal.EdgeTPU); processOf(t, three) != pid {
		t.Error("a later session does not join the runner")
	} else if err := three.Close(); err != nil {
		t.Error(err)
	}
	ended := watch(t, two)
	if err := two.Close(); err != nil {
		t.Error(err)
	}
	if !ended() {
		t.Error("the runner has no session and lives")
	}
	if again := openOn(t, e, hal.EdgeTPU); processOf(t, again) == pid {
		t.Error("a session in a runner that has ended")
	}
}

// TestTwoDevices: each Edge TPU has its runner, which those that name it share. One
// without a name may be any, so it does not go beside.
func TestTwoDevices(t *testing.T) {
	e := bad(t, "shared")
	on := func(device string) (hal.Session, error) {
		s, err := e.Open(t.Context(), someModel(t), hal.Options{Accelerator: hal.EdgeTPU, Device: device})
		if err == nil {
			t.Cleanup(func() { s.Close() })
		}
		return s, err
	}
	var pids []uint32
	var open []hal.Session
	for _, device := range []string{"usb:0", "usb:1", "usb:0"} {
		s, err := on(device)
		if err != nil {
			t.Fatal(err)
		}
		open, pids = append(open, s), append(pids, processOf(t, s))
	}
	if pids[0] == pids[1] || pids[0] != pids[2] {
		t.Errorf("models on usb:0, usb:1, usb:0 run in processes %d", pids)
	}
	if _, err := on(""); hal.CodeOf(err) != hal.CodeAccel || !strings.Contains(err.Error(), "name the device") {
		t.Errorf("one that names none: %v", err)
	}
	for _, s := range open {
		s.Close()
	}
	if _, err := on(""); err != nil {
		t.Errorf("one that names none, alone: %v", err)
	}
	if _, err := on("pci:0"); hal.CodeOf(err) != hal.CodeAccel {
		t.Errorf("one that names one beside it: %v", err)
	}
	for _, c := range []struct {
		accelerator  hal.Accelerator
		device, want string
	}{
		{hal.CUDA, "", "cuda gpu:0"}, {hal.TensorRT, "gpu:0", "cuda gpu:0"}, {hal.CUDA, "gpu:1", "cuda gpu:1"},
		{hal.XNNPACK, "", ""}, {hal.EdgeTPU, "", "edgetpu"}, {hal.EdgeTPU, "pci:1", "edgetpu pci:1"},
	} {
		if got := exclusive(hal.Options{Accelerator: c.accelerator, Device: c.device}); got != c.want {
			t.Errorf("%s %q: device %q, want %q", c.accelerator, c.device, got, c.want)
		}
	}
}

// TestOneCrashesForAll: whoever shares a runner with a model that crashes it loses
// the session, and is not blamed.
func TestOneCrashesForAll(t *testing.T) {
	e := bad(t, "shared")
	good, evil := openOn(t, e, hal.EdgeTPU), openOn(t, e, hal.EdgeTPU)
	evil.Input(0, 0)[0] = 0xff
	if _, err := evil.Run(0); hal.CodeOf(err) != hal.CodeCrash || !errors.Is(err, hal.ErrLost) {
		t.Errorf("the one that crashes: %v", err)
	}
	if _, err := good.Run(0); hal.CodeOf(err) != hal.CodeEngine || !errors.Is(err, hal.ErrLost) || !strings.Contains(err.Error(), "under another model on edgetpu") {
		t.Errorf("the other: %v", err)
	}
	processOf(t, openOn(t, e, hal.EdgeTPU))
}

func TestAdmission(t *testing.T) {
	e := bad(t, "good")
	free := int64(1 << 20)
	e.free = func() int64 { return free }
	first := openOn(t, e, hal.CPU) // however little there is
	_, err := e.Open(t.Context(), someModel(t), hal.Options{})
	if hal.CodeOf(err) != hal.CodeAdmission {
		t.Errorf("a second model without memory: %v", err)
	}
	free = reserve + runnerMemory + 1<<20
	second := openOn(t, e, hal.CPU)
	if m := second.Info().Memory; m <= 0 {
		t.Errorf("the memory of a runner is %d", m)
	}
	if first.Info().SHA256 != second.Info().SHA256 {
		t.Fatal("they are the same model")
	}
	e.mu.Lock()
	e.weighed[second.Info().SHA256] = 1 << 40
	e.mu.Unlock()
	if _, err := e.Open(t.Context(), someModel(t), hal.Options{}); hal.CodeOf(err) != hal.CodeAdmission {
		t.Errorf("a model that is known to be large: %v", err)
	}
}

func TestAvailable(t *testing.T) {
	for _, c := range []struct {
		name  string
		files map[string]string
		want  int64
	}{
		{"nothing told", nil, math.MaxInt64},
		{"memory", map[string]string{"proc/meminfo": "MemTotal: 1000 kB\nMemAvailable:   500 kB\n"}, 500 << 10},
		{"group", map[string]string{"proc/meminfo": "MemAvailable: 500 kB\n", "proc/self/cgroup": "0::/a/b\n",
			"sys/fs/cgroup/a/memory.max": "300000\n", "sys/fs/cgroup/a/memory.current": "100000\n", "sys/fs/cgroup/a/b/memory.max": "max\n"}, 200000},
		{"group with files in memory", map[string]string{"proc/self/cgroup": "0::/a\n", "sys/fs/cgroup/a/memory.max": "300000\n", "sys/fs/cgroup/a/memory.current": "290000\n",
			"sys/fs/cgroup/a/memory.stat": "anon 80000\nfile 200000\nactive_file 40000\ninactive_file 150000\n"}, 160000},
		{"group that is full", map[string]string{"proc/self/cgroup": "0::/a\n", "sys/fs/cgroup/a/memory.max": "3\n", "sys/fs/cgroup/a/memory.current": "9\n"}, 0},
	} {
		root := fstest.MapFS{}
		for name, text := range c.files {
			root[name] = &fstest.MapFile{Data: []byte(text)}
		}
		if got := available(root); got != c.want {
			t.Errorf("%s: %d, want %d", c.name, got, c.want)
		}
	}
}
