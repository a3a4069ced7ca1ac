package ladder

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/covey-edge/covey/hal"
)

func TestCandidates(t *testing.T) {
	devices := []hal.Device{{Accelerator: hal.CPU}, {Accelerator: "external:/a.so"}, {Accelerator: hal.EdgeTPU, ID: "usb:0"},
		{Accelerator: hal.EdgeTPU, ID: "usb:1"}, {Accelerator: hal.XNNPACK}, {Accelerator: "external:b.so"}}
	settings := map[hal.Accelerator][]map[string]string{hal.XNNPACK: {nil, {"flags": ""}}}
	for _, c := range []struct {
		order          []hal.Accelerator
		cores, threads int
		want           string
	}{
		{TFLite, 2, 0, "[edgetpu external:/a.so external:b.so xnnpack, 2 threads xnnpack, 1 thread xnnpack, 2 threads, no flags xnnpack, 1 thread, no flags cpu, 2 threads cpu, 1 thread]"},
		{TFLite, 8, 3, "[edgetpu, 3 threads external:/a.so, 3 threads external:b.so, 3 threads xnnpack, 3 threads xnnpack, 3 threads, no flags cpu, 3 threads]"},
		{[]hal.Accelerator{hal.CPU, "external:b.so", hal.GPU}, 64, 0, "[cpu, 4 threads cpu, 3 threads cpu, 2 threads cpu, 1 thread external:b.so]"},
		{ONNX, 1, 0, "[cpu, 1 thread]"},
		{nil, 1, 0, "[]"},
	} {
		if got := fmt.Sprint(candidates(offered(c.order, devices), c.cores, c.threads, settings)); got != c.want {
			t.Errorf("%v on %d cores:\n got %s\nwant %s", c.order, c.cores, got, c.want)
		}
	}
	if got := fmt.Sprint(safe(TFLite, 3, settings), safe(ONNX, 1, nil), safe([]hal.Accelerator{hal.EdgeTPU}, 4, nil)); got !=
		"[xnnpack, 3 threads cpu, 3 threads] [cpu, 1 thread] []" {
		t.Errorf("safe: %s", got)
	}
}

// TestBegin: who asks for threads gets them; else the board says, and it has no more
// than its cores; else one core is left.
func TestBegin(t *testing.T) {
	for _, c := range []struct{ asked, board, cores, want int }{
		{0, 0, 4, 3}, {0, 0, 1, 1}, {0, 0, 12, 4}, {0, 4, 8, 4}, {0, 4, 2, 2}, {2, 4, 8, 2}, {6, 0, 4, 6},
	} {
		if got := New(Config{Begin: c.board, Cores: c.cores}).begin(hal.Options{Threads: c.asked}); got != c.want {
			t.Errorf("%+v: got %d", c, got)
		}
	}
}

func floats(v ...float32) []byte {
	var b []byte
	for _, x := range v {
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(x))
	}
	return b
}

func TestDisagree(t *testing.T) {
	one := func(typ hal.DType, data []byte) []output {
		return []output{{info: hal.TensorInfo{Name: "o", Type: typ}, data: data}}
	}
	quant := func(data ...byte) []output {
		o := one(hal.Uint8, data)
		o[0].info.Quant = hal.Quant{Scale: []float32{0.5}, ZeroPoint: []int32{3}}
		return o
	}
	nan := float32(math.NaN())
	ints := func(wrong int) []output {
		b := make([]byte, 100*8)
		for i := range wrong {
			b[8*i] = 1
		}
		return one(hal.Int64, b)
	}
	for name, c := range map[string]struct {
		want, got []output
		tolerance float64
		agree     bool
	}{
		"same":                     {one(hal.Float32, floats(1, 2)), one(hal.Float32, floats(1, 2)), 0, true},
		"2 % of the largest":       {one(hal.Float32, floats(0, 10)), one(hal.Float32, floats(0.19, 10)), 0, true},
		"more":                     {one(hal.Float32, floats(0, 10)), one(hal.Float32, floats(0.21, 10)), 0, false},
		"near 0":                   {one(hal.Float32, floats(0, 0)), one(hal.Float32, floats(0.0009, 0)), 0, true},
		"NaN":                      {one(hal.Float32, floats(1)), one(hal.Float32, floats(nan)), 0, false},
		"NaN on the CPU":           {one(hal.Float32, floats(nan)), one(hal.Float32, floats(1)), 0, false},
		"NaN on both":              {one(hal.Float32, floats(nan)), one(hal.Float32, floats(nan)), 0, true},
		"16 of 256":                {quant(100, 200), quant(116, 200), 0, true},
		"17 of 256":                {quant(100, 200), quant(117, 200), 0, false},
		"another is first":         {quant(100, 117), quant(112, 105), 0, false},
		"the CPU is undecided":     {quant(100, 110), quant(112, 105), 0, true},
		"tolerance in real units":  {quant(100, 200), quant(104, 200), 2, true},
		"tolerance, more":          {quant(100, 200), quant(105, 200), 2, false},
		"5 of 100 whole numbers":   {ints(0), ints(5), 0, true},
		"6 of 100":                 {ints(0), ints(6), 0, false},
		"other size":               {one(hal.Float32, floats(1)), one(hal.Float32, floats(1, 2)), 0, false},
		"other type":               {one(hal.Float32, floats(1)), one(hal.Int32, floats(1)), 0, false},
		"other number of outputs":  {one(hal.Float32, floats(1)), nil, 0, false},
		"text":                     {one(hal.String, []byte("a")), one(hal.String, []byte("b")), 0, false},
		"half":                     {one(hal.Float16, []byte{0, 0x3c}), one(hal.Float16, []byte{1, 0x3c}), 0, true},
		"half, far":                {one(hal.Float16, []byte{0, 0x3c}), one(hal.Float16, []byte{0, 0x3d}), 0, false},
		"minus is not plus":        {one(hal.Int8, []byte{200}), one(hal.Int8, []byte{56}), 0, false},
		"infinite on both is same": {one(hal.Float32, floats(float32(math.Inf(1)))), one(hal.Float32, floats(float32(math.Inf(1)))), 0, true},
	} {
		if why := disagree(c.want, c.got, c.tolerance, 1); (why == "") != c.agree || len(why) > maxReason || strings.Contains(why, "\n") {
			t.Errorf("%s: %q, want agreement %v", name, why, c.agree)
		}
	}
}

func TestDetections(t *testing.T) {
	type box struct {
		class, score, at float32
	}
	result := func(list ...box) []output {
		var b, c, s []float32
		for _, x := range list {
			b, c, s = append(b, x.at, x.at, x.at+1, x.at+1), append(c, x.class), append(s, x.score)
		}
		info := hal.TensorInfo{Type: hal.Float32}
		return []output{{info, []int{1, len(list), 4}, floats(b...)}, {info, []int{1, len(list)}, floats(c...)},
			{info, []int{1, len(list)}, floats(s...)}, {info, []int{1}, floats(float32(len(list)))}}
	}
	want := result(box{1, 0.9, 0}, box{2, 0.88, 5}, box{3, 0.2, 9})
	for name, c := range map[string]struct {
		got   []output
		agree bool
	}{
		"same":              {want, true},
		"in another order":  {result(box{2, 0.9, 5}, box{1, 0.85, 0.1}, box{7, 0.3, 1}), true},
		"one is missing":    {result(box{1, 0.9, 0}, box{3, 0.2, 9}, box{3, 0.2, 9}), false},
		"one more":          {result(box{1, 0.9, 0}, box{2, 0.88, 5}, box{3, 0.9, 20}), false},
		"elsewhere":         {result(box{1, 0.9, 0.8}, box{2, 0.88, 5}, box{3, 0.2, 9}), false},
		"of another class":  {result(box{4, 0.9, 0}, box{2, 0.88, 5}, box{3, 0.2, 9}), false},
		"much less certain": {result(box{1, 0.6, 0}, box{2, 0.88, 5}, box{3, 0.2, 9}), false},
	} {
		if why := disagree(want, c.got, 0, 1); (why == "") != c.agree {
			t.Errorf("%s: %q, want agreement %v", name, why, c.agree)
		}
	}
}

func TestHalf(t *testing.T) {
	for i := range 1001 {
		v := float64(i) / 1000
		if got := unhalf(half(v)); math.Abs(got-v) > 1.0/1024 {
			t.Fatalf("%v becomes %v", v, got)
		}
	}
	for h, want := range map[uint16]float64{0x3c00: 1, 0xc000: -2, 0x7bff: 65504, 1: 1.0 / (1 << 24), 0x7c00: math.Inf(1), 0xfc00: math.Inf(-1)} {
		if got := unhalf(h); got != want {
			t.Errorf("%#x is %v, want %v", h, got, want)
		}
	}
	if !math.IsNaN(unhalf(0x7e00)) {
		t.Error("NaN is a number")
	}
}

// Made-up inputs are the same every time, fill the range, and are safe as indices.
func TestMadeUp(t *testing.T) {
	inputs := []hal.TensorInfo{{Type: hal.Uint8, Shape: []int{1, 40, 40, 3}}, {Type: hal.Float32, Shape: []int{100}}, {Type: hal.Int32, Shape: []int{7}},
		{Type: hal.Int8, Shape: []int{9000}}, {Type: hal.Float16, Shape: []int{50}}, {Type: hal.Bool, Shape: []int{8}}, {Type: hal.Float64, Shape: []int{2}}}
	a, b := madeUp(inputs), madeUp(inputs)
	for n := range a {
		for i, in := range a[n].Inputs {
			if len(in) != inputs[i].Elements()*inputs[i].Type.Size() || !slices.Equal(in, b[n].Inputs[i]) {
				t.Errorf("sample %d input %d: %d bytes, or not the same again", n, i, len(in))
			}
		}
		for i := 0; i < len(a[n].Inputs[2]); i += 4 {
			if v := binary.LittleEndian.Uint32(a[n].Inputs[2][i:]); v > 1 {
				t.Errorf("an index of %d", v)
			}
		}
		if lo, hi := slices.Min(a[n].Inputs[0]), slices.Max(a[n].Inputs[0]); hi-lo < 150 {
			t.Errorf("sample %d has values from %d to %d", n, lo, hi)
		}
	}
	if slices.Equal(a[0].Inputs[0], a[1].Inputs[0]) || slices.Equal(a[1].Inputs[0], a[2].Inputs[0]) {
		t.Error("samples are the same")
	}
}

func record(n int) Record {
	return Record{Model: fmt.Sprintf("%064x", n), Name: "m", Engine: "tflite", Devices: []hal.Device{{Accelerator: hal.CPU}},
		Choices: []Choice{{Accelerator: hal.XNNPACK, Threads: 2, Settings: map[string]string{"flags": "qs8"}, Took: time.Millisecond}, {Accelerator: hal.CPU}},
		Lost:    []hal.Attempt{{Accelerator: hal.EdgeTPU, Reason: "E_ACCEL: none"}}, Reference: 3 * time.Millisecond}
}

func TestMemory(t *testing.T) {
	s := &shelf{}
	m := Remember(s, zerolog.Nop())
	for n := range 100 {
		m.put(record(n))
	}
	m.put(record(40)) // again: it is the newest
	m.forget("tflite", record(99).Model, "")
	again := Remember(s, zerolog.Nop())
	if len(again.models) != maxRecords-1 || again.models[0].Model != record(40).Model || again.models[1].Model != record(98).Model {
		t.Errorf("%d records, the first %s", len(again.models), again.models[0].Model)
	}
	if _, ok := again.find("tflite", record(3).Model, ""); ok {
		t.Error("the oldest is still there")
	}
	saves := s.save
	m.forget("tflite", record(99).Model, "")
	if s.save != saves {
		t.Error("nothing changed, and it was written")
	}
	bad := record(7)
	bad.Name = strings.Repeat("x", maxText+1)
	m.put(bad)
	if _, err := Parse(s.b); err != nil || s.save != saves {
		t.Errorf("a record that cannot be read back was written: %v", err)
	}
	// The largest that can be fit the limit of the file.
	for n := range maxRecords {
		r := record(n)
		for range 2 * maxLost {
			r.Lost = append(r.Lost, hal.Attempt{Accelerator: "external:" + hal.Accelerator(strings.Repeat("x", 80)), Reason: strings.Repeat("r", maxReason)})
		}
		m.put(r)
	}
	if _, err := Parse(s.b); err != nil {
		t.Error(err)
	}
	s.fail = fmt.Errorf("disk is full")
	m.put(record(1000)) // a line in the log, no more
	if _, ok := m.find("tflite", record(1000).Model, ""); !ok {
		t.Error("not even remembered until the end of the process")
	}
}

func TestDamagedMemory(t *testing.T) {
	good, err := json.Marshal(file{Format: Format, Models: []Record{record(1)}})
	if err != nil {
		t.Fatal(err)
	}
	edit := func(old, new string) []byte {
		if !strings.Contains(string(good), old) {
			t.Fatalf("%q is not in %s", old, good)
		}
		return []byte(strings.Replace(string(good), old, new, 1))
	}
	for name, b := range map[string][]byte{
		"cut":            good[:len(good)-3],
		"not JSON":       []byte("\x00\x00\x00"),
		"another format": edit(`"format":1`, `"format":2`),
		"unknown key":    edit(`"format":1`, `"format":1,"x":1`),
		"behind the end": append(slices.Clone(good), '{'),
		"no hash":        edit(record(1).Model, "abc"),
		"negative time":  edit(`"took":1000000`, `"took":-1`),
		"threads":        edit(`"threads":2`, `"threads":-2`),
		"no choice":      edit(`"choices":[`, `"choices":[],"lost":[`),
		"auto":           edit(`"xnnpack"`, `"auto"`),
		"two lines":      edit(`E_ACCEL: none`, `E_ACCEL\nnone`),
		"too long":       slices.Concat(good, []byte(strings.Repeat(" ", MaxFile))),
	} {
		if _, err := Parse(b); hal.CodeOf(err) != hal.CodeStateCorrupt && name != "no choice" || err == nil {
			t.Errorf("%s: %v", name, err)
		}
		var log strings.Builder
		if m := Remember(&shelf{b: b}, zerolog.New(&log)); len(m.models) != 0 || !strings.Contains(log.String(), "measured again") {
			t.Errorf("%s: %d models, log %s", name, len(m.models), log.String())
		}
	}
	if m := Remember(&shelf{b: good}, zerolog.Nop()); len(m.models) != 1 {
		t.Error("the good one was not read")
	}
}

func TestExplain(t *testing.T) {
	b, err := json.Marshal(file{Format: Format, Models: []Record{record(1)}})
	if err != nil {
		t.Fatal(err)
	}
	list, err := Explain(b)
	if err != nil || len(list) != 3 {
		t.Fatalf("%v, %v", list, err)
	}
	for i, want := range []string{"runs on xnnpack, 2 threads, flags qs8 (1 ms)", "falls back to cpu", "not edgetpu: E_ACCEL: none"} {
		if list[i].Detail != want || !list[i].OK || list[i].Subject != "model m (000000000000)" {
			t.Errorf("line %d: %+v, want %q", i, list[i], want)
		}
	}
	if list, err := Explain(nil); err != nil || len(list) != 0 {
		t.Errorf("of nothing: %v, %v", list, err)
	}
	if _, err := Explain([]byte("x")); hal.CodeOf(err) != hal.CodeStateCorrupt {
		t.Errorf("of nonsense: %v", err)
	}
}

func FuzzParse(f *testing.F) {
	b, err := json.Marshal(file{Format: Format, Models: []Record{record(1), record(2)}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte(`{"format":1,"models":null}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		records, err := Parse(b)
		if err != nil {
			if hal.CodeOf(err) != hal.CodeStateCorrupt {
				t.Fatal(err)
			}
			return
		}
		again, err := json.Marshal(file{Format: Format, Models: records})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Parse(again); err != nil && len(again) <= MaxFile {
			t.Fatalf("does not read back: %v", err)
		}
		list, err := Explain(b)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range list {
			if strings.Contains(d.Detail, "\n") {
				t.Fatalf("two lines: %q", d.Detail)
			}
		}
	})
}
