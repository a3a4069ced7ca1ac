package local

import (
	"bytes"
	"context"
	"fmt"
	"image"
	"image/jpeg"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/image/draw"

	"github.com/covey-edge/covey/hal"
	"github.com/covey-edge/covey/hal/haltest"
)

// A house is a Board: three pipelines, of which one shows no pictures and one is
// pinned. What is set has its effect on what is seen.
type house struct {
	mu       sync.Mutex
	notReady string
	regions  map[string]Regions
	values   map[string]map[string]any // by pipeline and setting; what was set at home
	events   []Event
	sets     int
	watched  int           // previews that are open
	changed  chan struct{} // closed, and made anew, when something changes
	pictures [][]byte
	doctor   func(context.Context) ([]hal.Diagnosis, error)
}

func newHouse() *house {
	now := time.Date(2026, 11, 25, 9, 41, 7, 0, time.UTC)
	h := &house{regions: map[string]Regions{
		"door":    {Origin: OriginDefault},
		"bedroom": {Origin: OriginDefault},
		"yard":    {Origin: OriginFile, Locked: "zones of yard stand in agent.yaml: change them there", Zones: []Zone{{"gate", [][2]float64{{0.1, 0.1}, {0.9, 0.1}, {0.5, 0.9}}}}},
	}, values: map[string]map[string]any{"door": {}, "bedroom": {}, "yard": {}}, changed: make(chan struct{})}
	h.events = []Event{
		{Seq: 1, ID: "board-abc-1", TS: now.Add(-9 * time.Minute), Pipeline: "yard", Type: "end", Label: "cat", Score: 0.74, Zone: "gate"},
		{Seq: 2, ID: "board-abc-2", TS: now.Add(-2 * time.Minute), Pipeline: "door", Type: "start", Label: "person", Score: 0.81, Zone: "table", Picture: true},
		{Seq: 3, ID: "board-abc-3", TS: now, Pipeline: "door", Type: "start", Label: `<b onclick="x">laptop</b>`, Score: 0.65, Picture: true},
	}
	h.doctor = func(context.Context) ([]hal.Diagnosis, error) {
		return []hal.Diagnosis{
			{Subject: "runner tflite", OK: true, Detail: "TensorFlow Lite 2.17.1"},
			{Subject: "coral usb", Detail: "Coral USB Accelerator at 1-1 runs at 480 Mbit/s, USB 2: three times as slow", Fix: "plug it into a blue USB 3 socket, with its own cable"},
		}, nil
	}
	return h
}

// film gives the house a real picture to see, and a slow pan over it.
func (h *house) film(t *testing.T) {
	t.Helper()
	filmed.Do(func() { pan(t) })
	h.pictures = film
}

var (
	filmed sync.Once
	film   [][]byte
)

func pan(t *testing.T) {
	f, err := os.Open(haltest.Models(t) + "/ssd/example.jpg")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	whole, err := jpeg.Decode(f)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		part := whole.Bounds().Inset(2 * i)
		small := image.NewRGBA(image.Rect(0, 0, 800, 800*part.Dy()/part.Dx()))
		draw.ApproxBiLinear.Scale(small, small.Bounds(), whole, part, draw.Src, nil)
		var b bytes.Buffer
		if err := jpeg.Encode(&b, small, &jpeg.Options{Quality: 80}); err != nil {
			t.Fatal(err)
		}
		film = append(film, b.Bytes())
	}
}

func (h *house) touch() {
	close(h.changed)
	h.changed = make(chan struct{})
}

// await waits until is says yes.
func (h *house) await(t *testing.T, what string, is func(*house) bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for {
		h.mu.Lock()
		ok, changed := is(h), h.changed
		h.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			t.Fatalf("never: %s", what)
		}
	}
}

func (h *house) Status() Status {
	h.mu.Lock()
	defer h.mu.Unlock()
	cpu, temperature, memory, disk := 31.0, 54.5, int64(2_100<<20), int64(21<<30)
	p := Pipeline{
		Name: "door", Source: "v4l2", Kind: "detect", State: StateRuns, FPS: 9.8, P50: 31.4, P99: 48.9, Captured: 48211, Published: 41007,
		Dropped: map[string]uint64{"still": 6900, "stale": 304}, Model: Model{"coco-ssd-mobilenet", "1.2.0", "c0ffee"}, Accelerator: "xnnpack", Memory: 41 << 20,
		Tried: []Attempt{
			{Accelerator: "edgetpu", Reason: "no Coral is plugged in"},
			{Accelerator: "gpu", Ms: 44.1, Reason: "slower than xnnpack"},
			{Accelerator: "xnnpack", Detail: "4 threads", Ms: 27.2, InUse: true, Reason: "the fastest that gives the CPU's answers"},
			{Accelerator: "cpu", Detail: "4 threads", Ms: 61.8, Reason: "slower than xnnpack"},
		},
		Privacy: Privacy{Class: "events", Pictures: true, Text: "Pictures may be shown on this page and stay on this board: class events."}, Aspect: 1.5,
	}
	bedroom, yard := p, p
	bedroom.Name, bedroom.Source, bedroom.Privacy, bedroom.Aspect = "bedroom", "csi", Privacy{Class: "numbers", Text: "Pictures stay on this board: class numbers."}, 0
	yard.Name, yard.Source, yard.State, yard.Code, yard.Text = "yard", "rtsp", StateDegraded, "E_CRASH", "runs on cpu: xnnpack has crashed three times within five minutes."
	yard.Accelerator, yard.Dropped = "cpu", nil
	return Status{
		Device: "kitchen", Board: "Raspberry Pi 5", Version: "0.4.0", Runtimes: map[string]string{"tflite": "2.17.1"}, Now: time.Now(), Uptime: 93600,
		NotReady: h.notReady, Memory: 13 << 20, Gauges: Gauges{CPU: &cpu, Temperature: &temperature, MemoryFree: &memory, DiskFree: &disk},
		Links: []Link{{Name: "home", Up: true}, {Name: "fleet", Text: "the broker does not answer since 09:12."}}, Outbox: Outbox{Waiting: 12},
		Pipelines: []Pipeline{p, bedroom, yard},
	}
}

func (h *house) Stages() []Stage {
	return []Stage{
		{Pipeline: "door", Stage: "run", Upper: []time.Duration{900 * time.Microsecond, 3 * time.Millisecond, 28 * time.Millisecond, time.Hour}, Counts: []uint64{5, 0, 100, 1}, Sum: 3 * time.Second},
		{Pipeline: "door", Stage: "total", Upper: []time.Duration{40 * time.Millisecond}, Counts: []uint64{106}, Sum: 4 * time.Second},
	}
}

func (h *house) Events(after uint64) []Event {
	h.mu.Lock()
	defer h.mu.Unlock()
	i := slices.IndexFunc(h.events, func(e Event) bool { return e.Seq > after })
	if i < 0 {
		return nil
	}
	return slices.Clone(h.events[i:])
}

func (h *house) EventPicture(id string) ([]byte, error) {
	switch {
	case id == "board-abc-1":
		return nil, fmt.Errorf("pictures of yard stay on the board: %w", ErrPrivate)
	case len(h.pictures) == 0:
		return nil, fmt.Errorf("the picture is no longer kept: %w", ErrNotFound)
	}
	return h.pictures[0], nil
}

func (h *house) Doctor(ctx context.Context) ([]hal.Diagnosis, error) { return h.doctor(ctx) }

func (h *house) known(pipeline string) error {
	if _, ok := h.regions[pipeline]; !ok {
		return fmt.Errorf("there is no pipeline %s: %w", pipeline, ErrNotFound)
	}
	return nil
}

func (h *house) Preview(ctx context.Context, pipeline string) (<-chan View, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.known(pipeline); err != nil {
		return nil, err
	}
	h.watched++
	h.touch()
	views := make(chan View)
	go func() { // ends with ctx: the server's, or the request's
		defer close(views)
		beat := time.NewTicker(time.Second / MaxPreviewHz)
		defer beat.Stop()
		for i := 0; ctx.Err() == nil; i++ {
			select {
			case views <- h.view(pipeline, i):
			case <-ctx.Done():
				continue
			}
			select {
			case <-beat.C:
			case <-ctx.Done():
			}
		}
		h.mu.Lock()
		defer h.mu.Unlock()
		h.watched--
		h.touch()
	}()
	return views, nil
}

// view is what is seen where nothing below the threshold counts.
func (h *house) view(pipeline string, i int) View {
	h.mu.Lock()
	defer h.mu.Unlock()
	v := View{TS: time.Now()}
	if pipeline != "bedroom" && len(h.pictures) > 0 {
		v.JPEG = h.pictures[i%len(h.pictures)]
	}
	for _, it := range []Item{
		{Label: "person", Score: 0.87, Box: &[4]float32{0.19, 0.06, 0.52, 0.93}},
		{Label: "person", Score: 0.81, Box: &[4]float32{0.53, 0.13, 0.84, 0.93}},
		{Label: "laptop", Score: 0.66, Box: &[4]float32{0.02, 0.50, 0.36, 0.97}},
		{Label: "chair", Score: 0.42, Box: &[4]float32{0.80, 0.40, 0.99, 0.98}},
	} {
		if it.Score >= float32(h.value(pipeline, "threshold", 0.5).(float64)) && h.value(pipeline, "enabled", true).(bool) {
			v.Items = append(v.Items, it)
		}
	}
	return v
}

func (h *house) value(pipeline, name string, otherwise any) any {
	if v, ok := h.values[pipeline][name]; ok {
		return v
	}
	return otherwise
}

func (h *house) Regions(pipeline string) (Regions, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.regions[pipeline], h.known(pipeline)
}

func (h *house) SetRegions(pipeline string, zones, masks []Zone) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.known(pipeline); err != nil {
		return err
	}
	h.regions[pipeline] = Regions{Zones: zones, Masks: masks, Origin: OriginHome}
	h.touch()
	return nil
}

func (h *house) Settings(pipeline string) ([]Setting, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.known(pipeline); err != nil {
		return nil, err
	}
	list := []Setting{
		{Name: "enabled", Title: "Switched on", Value: h.value(pipeline, "enabled", true), Origin: OriginDefault},
		{Name: "threshold", Title: "How sure it must be", Value: h.value(pipeline, "threshold", 0.5), Min: 0.05, Max: 0.95, Step: 0.01, Origin: OriginFleet},
	}
	for i := range list {
		if _, ok := h.values[pipeline][list[i].Name]; ok {
			list[i].Origin = OriginHome
		}
		if pipeline == "yard" {
			list[i].Origin, list[i].Locked = OriginFile, "it stands in agent.yaml: change it there"
		}
	}
	return list, nil
}

func (h *house) Set(pipeline, name string, value any) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.sets++
	h.values[pipeline][name] = value
	if value == nil {
		delete(h.values[pipeline], name)
	}
	h.touch()
	return nil
}
