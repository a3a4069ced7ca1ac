package ladder

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/covey-edge/covey/hal"
)

// External in an order stands for every "external:<library>" that is here.
const External hal.Accelerator = "external:*"

// TFLite and ONNX are the orders in which accelerators are tried where nobody
// says otherwise: the most that can be gained first, for when time runs out.
var (
	TFLite = []hal.Accelerator{hal.EdgeTPU, hal.GPU, External, hal.XNNPACK, hal.CPU}
	ONNX   = []hal.Accelerator{hal.TensorRT, hal.CUDA, hal.CPU}
)

// maxThreads is the most that are tried: past that, boards gain nothing (four
// threads of a Raspberry Pi 4 are hardly faster than three).
const maxThreads = 4

// A Choice is one way to run a model.
type Choice struct {
	Accelerator hal.Accelerator   `json:"accelerator"`
	Threads     int               `json:"threads,omitempty"` // 0: the engine chooses
	Settings    map[string]string `json:"settings,omitempty"`
	Took        time.Duration     `json:"took,omitempty"` // p50 of its runs
}

// String is the choice for people: "xnnpack, 2 threads, no flags".
func (c Choice) String() string {
	var b strings.Builder
	b.WriteString(string(c.Accelerator))
	switch {
	case c.Threads == 1:
		b.WriteString(", 1 thread")
	case c.Threads > 1:
		fmt.Fprintf(&b, ", %d threads", c.Threads)
	}
	for _, k := range slices.Sorted(maps.Keys(c.Settings)) {
		if v := c.Settings[k]; v != "" {
			fmt.Fprintf(&b, ", %s %s", k, v)
		} else {
			fmt.Fprintf(&b, ", no %s", k)
		}
	}
	return b.String()
}

// same says whether two choices mean one thing.
func (c Choice) same(d Choice) bool {
	return c.Threads == d.Threads && c.alike(d)
}

// alike says whether they differ in threads alone: what breaks one breaks the other.
func (c Choice) alike(d Choice) bool {
	return c.Accelerator == d.Accelerator && maps.Equal(c.Settings, d.Settings)
}

func (c Choice) lost(reason string) hal.Attempt {
	return hal.Attempt{Accelerator: c.Accelerator, Threads: c.Threads, Settings: c.Settings, Took: c.Took, Reason: clip(reason)}
}

// offered is the accelerators of an order that are among the devices, each once.
func offered(order []hal.Accelerator, devices []hal.Device) []hal.Accelerator {
	var list []hal.Accelerator
	for _, want := range order {
		for _, d := range devices {
			external := want == External && strings.HasPrefix(string(d.Accelerator), "external:")
			if (external || d.Accelerator == want) && !slices.Contains(list, d.Accelerator) {
				list = append(list, d.Accelerator)
			}
		}
	}
	return list
}

// candidates are all ways to run a model that are worth a try: accelerators in
// order, their settings, and where an accelerator is the CPU, its threads, most
// first. threads other than 0 is what the caller insists on.
func candidates(accelerators []hal.Accelerator, cores, threads int, settings map[hal.Accelerator][]map[string]string) []Choice {
	var list []Choice
	for _, a := range accelerators {
		counts := []int{threads}
		if threads == 0 && onCPU(a) {
			counts = counts[:0]
			for n := most(cores); n > 0; n-- {
				counts = append(counts, n)
			}
		}
		ways := settings[a]
		if len(ways) == 0 {
			ways = []map[string]string{nil}
		}
		for _, way := range ways {
			for _, n := range counts {
				list = append(list, Choice{Accelerator: a, Threads: n, Settings: way})
			}
		}
	}
	return list
}

// safe is what a model is opened on before it was measured: nothing that needs a
// driver. Empty where the order has no CPU in it.
func safe(order []hal.Accelerator, threads int, settings map[hal.Accelerator][]map[string]string) []Choice {
	var list []Choice
	for _, a := range order {
		if !onCPU(a) {
			continue
		}
		c := Choice{Accelerator: a, Threads: threads}
		if ways := settings[a]; len(ways) > 0 {
			c.Settings = ways[0]
		}
		list = append(list, c)
	}
	return list
}

func onCPU(a hal.Accelerator) bool { return a == hal.XNNPACK || a == hal.CPU }

func most(cores int) int { return max(1, min(maxThreads, cores)) }

// maxReason is the longest reason that is kept, bytes.
const maxReason = 200

// clip makes one short line of what an engine said.
func clip(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
	if len(s) <= maxReason {
		return s
	}
	return strings.ToValidUTF8(s[:maxReason-3], "") + "…"
}
