package runner

import (
	"fmt"
	"io/fs"
	"math"
	"strconv"
	"strings"

	"github.com/covey-edge/covey/hal"
)

const (
	// A runner takes about three times the model's file (the file, packed weights,
	// tensors) and this much for itself. It is a guess for a model that was never open
	// here; of others it is known.
	runnerMemory = 24 << 20
	modelTimes   = 3
	// reserve is left to the rest of the board.
	reserve = 32 << 20
)

// maxWeighed is how many models' memory is remembered.
const maxWeighed = 256

// weigh remembers what the runner of a model took, in bytes; 0 is not known. The
// most counts: a model that was never run has touched little of its memory.
func (e *Engine) weigh(m *sealed, memory int64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.weighed) >= maxWeighed && e.weighed[m.sum] == 0 {
		clear(e.weighed)
	}
	if memory > e.weighed[m.sum] {
		e.weighed[m.sum] = memory
	}
}

// admit counts one more model, if there is room for it beside those that are open
// and those that are being opened. The first one is never refused: nothing could be
// gained by it. done has to be called once it is open, or is not.
func (e *Engine) admit(m *sealed, name string) (done func(opened bool), err error) {
	free := e.free()
	e.mu.Lock()
	defer e.mu.Unlock()
	need := e.weighed[m.sum]
	if need == 0 {
		need = modelTimes*m.size + runnerMemory
	}
	if room := free - reserve - e.granted; e.open > 0 && need > room {
		return nil, &hal.Error{Code: hal.CodeAdmission, Text: fmt.Sprintf(
			"model %s needs some %d MiB beside what runs, %d MiB are free: a smaller model, or one pipeline less", name, need>>20, max(0, room)>>20)}
	}
	e.open++
	e.granted += need
	return func(opened bool) {
		e.mu.Lock()
		defer e.mu.Unlock()
		e.granted -= need
		if !opened {
			e.open--
		}
	}, nil
}

// available is the memory that can be had without taking any from others, bytes:
// what the kernel says, and what the groups of this process are allowed. A group's
// use has the files in it that were read and written, up to its limit, however long
// ago; those that nobody uses go when there is need.
func available(root fs.FS) int64 {
	free := int64(math.MaxInt64)
	if kb, ok := entry(root, "proc/meminfo", "MemAvailable:"); ok {
		free = kb << 10
	}
	group, ok := strings.CutPrefix(strings.TrimSpace(text(root, "proc/self/cgroup")), "0::/")
	for ok && group != "" {
		folder := "sys/fs/cgroup/" + group
		most, err := strconv.ParseInt(strings.TrimSpace(text(root, folder+"/memory.max")), 10, 64)
		used, err2 := strconv.ParseInt(strings.TrimSpace(text(root, folder+"/memory.current")), 10, 64)
		if err == nil && err2 == nil {
			files, _ := entry(root, folder+"/memory.stat", "inactive_file")
			free = min(free, max(0, most-used+files))
		}
		i := strings.LastIndexByte(group, '/')
		group = group[:max(i, 0)]
	}
	return free
}

// pss is the memory of a process, with what it shares divided among those that
// share it, bytes; 0 when the kernel does not tell.
func pss(root fs.FS, pid int) int64 {
	kb, _ := entry(root, "proc/"+strconv.Itoa(pid)+"/smaps_rollup", "Pss:")
	return kb << 10
}

// entry is the number behind a word that begins a line of a file.
func entry(root fs.FS, name, word string) (n int64, ok bool) {
	for line := range strings.Lines(text(root, name)) {
		if f := strings.Fields(line); len(f) >= 2 && f[0] == word {
			n, err := strconv.ParseInt(f[1], 10, 48)
			return n, err == nil
		}
	}
	return 0, false
}

func text(root fs.FS, name string) string {
	b, err := fs.ReadFile(root, name)
	if err != nil {
		return ""
	}
	return string(b)
}
