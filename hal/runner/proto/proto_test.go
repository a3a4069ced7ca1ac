package proto

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/covey-edge/covey/hal"
)

func TestHeaderRoundTrip(t *testing.T) {
	h := Header{Kind: KindRun | Answer, Session: 7, Request: 1 << 60}
	p := append(make([]byte, HeaderSize), "body"...)
	h.Put(p, 4)
	got, body, err := Parse(p)
	h.Length = 4
	if err != nil || got != h || string(body) != "body" {
		t.Errorf("Parse(Put(%+v)) = %+v, %q, %v", h, got, body, err)
	}
	for name, bad := range map[string][]byte{
		"empty": nil, "short": p[:HeaderSize-1], "cut": p[:len(p)-1], "longer": append(slices.Clone(p), 0),
		"reserved": append(append(slices.Clone(p[:20]), 1), p[21:]...), "huge": make([]byte, MaxPacket+1),
	} {
		if _, _, err := Parse(bad); err == nil {
			t.Errorf("%s: parsed", name)
		}
	}
}

func someOpened() *Opened {
	return &Opened{
		Inputs: []Tensor{{TensorInfo: hal.TensorInfo{Name: "in", Type: hal.Float32, Shape: []int{1, 3}}, Bytes: 12}},
		Outputs: []Tensor{
			{TensorInfo: hal.TensorInfo{Name: "a", Type: hal.Uint8, Shape: []int{1, 5}}, Bytes: 5},
			{TensorInfo: hal.TensorInfo{Name: "b", Type: hal.Int64, Shape: []int{-1, 2}}},
		},
	}
}

func TestOpenedCheck(t *testing.T) {
	if err := someOpened().Check(); err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(o *Opened){
		"no input":       func(o *Opened) { o.Inputs = nil },
		"too many":       func(o *Opened) { o.Outputs = make([]Tensor, MaxTensors+1) },
		"unknown input":  func(o *Opened) { o.Inputs[0].Shape[0] = -1 },
		"negative":       func(o *Opened) { o.Outputs[0].Shape[0] = -2 },
		"overflow":       func(o *Opened) { o.Inputs[0].Shape = []int{1 << 31, 1 << 31, 1 << 31} },
		"around 2^64":    func(o *Opened) { o.Inputs[0].Shape, o.Inputs[0].Bytes = []int{1<<62 + 4}, 16 },
		"huge of int4":   func(o *Opened) { o.Inputs[0].Type, o.Inputs[0].Shape = hal.Int4, []int{1 << 40} },
		"huge and empty": func(o *Opened) { o.Outputs[0].Shape, o.Outputs[0].Bytes = []int{0, 1 << 62}, 0 },
		"huge and open":  func(o *Opened) { o.Outputs[1].Shape[1] = 1 << 62 },
		"wrong size":     func(o *Opened) { o.Inputs[0].Bytes = 11 },
		"negative size":  func(o *Opened) { o.Outputs[0].Bytes = -5 },
		"large unknown":  func(o *Opened) { o.Outputs[1].Bytes = MaxMapping + 1 },
		"rank":           func(o *Opened) { o.Outputs[0].Shape = make([]int, MaxRank+1) },
		"name":           func(o *Opened) { o.Outputs[0].Name = strings.Repeat("x", MaxText+1) },
		"quantisation":   func(o *Opened) { o.Outputs[0].Quant.Scale = []float32{1} },
		"many attempts":  func(o *Opened) { o.Tried = make([]hal.Attempt, MaxTensors+1) },
		"no size at all": func(o *Opened) { o.Inputs[0].Shape, o.Inputs[0].Bytes = []int{0}, 0 },
	} {
		o := someOpened()
		if spoil(o); o.Check() == nil {
			t.Errorf("%s: passed", name)
		}
	}
}

func TestLayoutKeepsTensorsApart(t *testing.T) {
	o := someOpened()
	m, err := Layout(o, 3)
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Check(o); err != nil {
		t.Fatal(err)
	}
	var all []Span
	for _, b := range m.Buffers {
		all = append(append(all, b.In...), b.Out...)
	}
	end := int64(0)
	for _, s := range all {
		if s.Off < end || s.Off%align != 0 {
			t.Errorf("span %+v begins before %d or off the line", s, end)
		}
		end = s.Off + s.Len
	}
	if end > m.Size || m.Buffers[2].Out[1].Len != DynamicRoom {
		t.Errorf("%d bytes used of %d; %d for the unknown output", end, m.Size, m.Buffers[2].Out[1].Len)
	}
	for _, n := range []int{0, -1, MaxBuffers + 1} {
		if _, err := Layout(o, n); err == nil {
			t.Errorf("%d buffers: laid out", n)
		}
	}
	o.Inputs[0].Shape, o.Inputs[0].Bytes = []int{MaxMapping / 4}, MaxMapping
	if _, err := Layout(o, 2); err == nil {
		t.Error("twice the limit: laid out")
	}
}

func TestMapCheckRefuses(t *testing.T) {
	o := someOpened()
	for name, spoil := range map[string]func(m *Map){
		"outside":       func(m *Map) { m.Buffers[0].Out[0].Off = m.Size },
		"wrapping":      func(m *Map) { m.Buffers[0].Out[1].Off = 1<<63 - 1 },
		"negative":      func(m *Map) { m.Buffers[1].In[0].Off = -64 },
		"negative size": func(m *Map) { m.Buffers[1].Out[1].Len = -1 },
		"short input":   func(m *Map) { m.Buffers[1].In[0].Len = 11 },
		"short output":  func(m *Map) { m.Buffers[1].Out[0].Len = 4 },
		"missing":       func(m *Map) { m.Buffers[1].Out = nil },
		"none":          func(m *Map) { m.Buffers = nil },
		"huge":          func(m *Map) { m.Size = MaxMapping + 1 },
	} {
		m, err := Layout(o, 2)
		if err != nil {
			t.Fatal(err)
		}
		if spoil(&m); m.Check(o) == nil {
			t.Errorf("%s: passed", name)
		}
	}
}

func TestRanRoundTrip(t *testing.T) {
	o := someOpened()
	m, err := Layout(o, 1)
	if err != nil {
		t.Fatal(err)
	}
	want := Ran{EngineNS: 12345, Outputs: []Result{
		{Bytes: 5, Rank: 2, Dims: [MaxRank]int{1, 5}}, {Bytes: 48, Rank: 2, Dims: [MaxRank]int{3, 2}},
	}}
	body := make([]byte, RanSize(2))
	want.Put(body)
	var got Ran
	if err := got.Parse(body, o, m.Buffers[0].Out); err != nil {
		t.Fatal(err)
	}
	if got.EngineNS != want.EngineNS || !slices.Equal(got.Outputs, want.Outputs) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if n := testing.AllocsPerRun(10, func() { _ = got.Parse(body, o, m.Buffers[0].Out) }); n > 0 {
		t.Errorf("%v allocations a result", n)
	}
}

func TestRanRefuses(t *testing.T) {
	o := someOpened()
	o.Outputs[0].Type = hal.Int4 // its size says nothing of its shape
	m, err := Layout(o, 1)
	if err != nil {
		t.Fatal(err)
	}
	first, second := Result{Bytes: 5, Rank: 1, Dims: [MaxRank]int{5}}, Result{Rank: 1}
	for name, r := range map[string]Ran{
		"":               {Outputs: []Result{first, second}},
		"past its room":  {Outputs: []Result{{Bytes: 6, Rank: 1, Dims: [MaxRank]int{5}}, second}},
		"negative size":  {Outputs: []Result{{Bytes: -1, Rank: 1, Dims: [MaxRank]int{5}}, second}},
		"rank":           {Outputs: []Result{{Bytes: 5, Rank: MaxRank + 1}, second}},
		"shape and size": {Outputs: []Result{first, {Bytes: 8, Rank: 1, Dims: [MaxRank]int{2}}}},
		"negative shape": {Outputs: []Result{first, {Bytes: 8, Rank: 2, Dims: [MaxRank]int{-1, -1}}}},
		"below zero":     {Outputs: []Result{{Bytes: 5, Rank: 1, Dims: [MaxRank]int{-5}}, second}}, // of int4
		"empty, below":   {Outputs: []Result{first, {Rank: 2, Dims: [MaxRank]int{0, -1}}}},
		"overflow":       {Outputs: []Result{first, {Rank: 3, Dims: [MaxRank]int{1 << 30, 1 << 30, 1 << 30}}}},
		"negative time":  {EngineNS: -1, Outputs: []Result{first, second}},
		"one too few":    {Outputs: []Result{first}},
	} {
		body := make([]byte, RanSize(len(r.Outputs)))
		r.Put(body)
		if err := new(Ran).Parse(body, o, m.Buffers[0].Out); (err == nil) != (name == "") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestOneLine(t *testing.T) {
	for in, want := range map[string]string{
		"plain": "plain", " a\nb\x00c\x1b[31m ": "a b c [31m", "": "", "a\u009b31m b\u202ec\u2028d é…": "a 31m b c d é…",
		strings.Repeat("ä", MaxText): strings.Repeat("ä", (MaxText-3)/2) + "…",
	} {
		if got := OneLine(in); got != want {
			t.Errorf("OneLine(%.20q…) = %.20q…", in, got)
		}
	}
}

// echo copies its inputs to its outputs; each model adds its number.
type echo struct{ opened int }

func (e *echo) Engine() (string, string) { return "echo", "echo 1" }
func (e *echo) Probe() Found             { return Found{} }
func (e *echo) Open(o Open, file []byte, step func(string)) (Model, error) {
	if len(file) != int(o.Size) {
		return nil, errors.New("size")
	}
	step("thinking")
	e.opened++
	return &echoModel{add: byte(e.opened)}, nil
}

type echoModel struct{ add byte }

func (m *echoModel) Opened() *Opened {
	t := []Tensor{{TensorInfo: hal.TensorInfo{Name: "x", Type: hal.Uint8, Shape: []int{4}}, Bytes: 4}}
	return &Opened{Inputs: t, Outputs: t, Accelerator: hal.CPU, Threads: 1}
}

func (m *echoModel) Run(in, out [][]byte, r *Ran) error {
	for i, b := range in[0] {
		out[0][i] = b + m.add
	}
	r.Outputs[0] = Result{Bytes: 4, Rank: 1, Dims: [MaxRank]int{4}}
	return nil
}
func (m *echoModel) Reset() error { return nil }
func (m *echoModel) Close()       {}

// A client is the agent's end, as plain as can be.
type client struct {
	t     testing.TB
	fd    int
	count uint64
}

func serve(t testing.TB) *client {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1) // one value, read by Cleanup
	go func() {
		done <- Serve(pair[1], new(echo))
		unix.Close(pair[1])
	}()
	t.Cleanup(func() {
		unix.Close(pair[0])
		<-done
	})
	return &client{t: t, fd: pair[0]}
}

// ask sends a request and returns the kind and body of the answer, past notes.
func (c *client) ask(kind Kind, session uint32, v any, fds ...int) (Kind, []byte) {
	c.t.Helper()
	c.count++
	p, err := Pack(Header{Kind: kind, Session: session, Request: c.count}, v)
	if err != nil {
		c.t.Fatal(err)
	}
	if kind == KindRun {
		p = make([]byte, HeaderSize+RunSize)
		Header{Kind: kind, Session: session, Request: c.count}.Put(p, RunSize)
		PutRun(p[HeaderSize:], v.(int))
	}
	if err := unix.Sendmsg(c.fd, p, unix.UnixRights(fds...), nil, 0); err != nil {
		c.t.Fatal(err)
	}
	for {
		in := make([]byte, MaxPacket)
		n, err := unix.Read(c.fd, in)
		if err != nil {
			c.t.Fatal(err)
		}
		h, body, err := Parse(in[:n])
		if err != nil || h.Request != c.count || h.Session != session {
			c.t.Fatalf("answer %+v to request %d of session %d: %v", h, c.count, session, err)
		}
		if h.Kind != KindNote {
			return h.Kind, body
		}
	}
}

func memory(t testing.TB, content []byte) int {
	t.Helper()
	fd, err := unix.MemfdCreate("test", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if _, err := unix.Write(fd, content); err != nil {
		t.Fatal(err)
	}
	return fd
}

// TestSessionsBesideEachOther holds several sessions on one connection.
func TestSessionsBesideEachOther(t *testing.T) {
	c := serve(t)
	if k, body := c.ask(KindHello, 0, Hello{Versions: []int{9, Version}}); k != KindHello|Answer {
		t.Fatalf("hello: %s", body)
	}
	layout, err := Layout((&echoModel{}).Opened(), 2)
	if err != nil {
		t.Fatal(err)
	}
	mapped := map[uint32][]byte{}
	for _, id := range []uint32{5, 900} {
		if k, body := c.ask(KindOpen, id, Open{Name: "m", Size: 5}, memory(t, []byte("model"))); k != KindOpen|Answer {
			t.Fatalf("open %d: %s", id, body)
		}
		fd := memory(t, make([]byte, layout.Size))
		if mapped[id], err = unix.Mmap(fd, 0, int(layout.Size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err != nil {
			t.Fatal(err)
		}
		if k, body := c.ask(KindMap, id, layout, fd); k != KindMap|Answer {
			t.Fatalf("map %d: %s", id, body)
		}
	}
	for i, id := range []uint32{5, 900, 5} {
		b := layout.Buffers[i%2]
		copy(b.In[0].Of(mapped[id]), []byte{10, 20, 30, 40})
		k, body := c.ask(KindRun, id, i%2)
		var r Ran
		if err := r.Parse(body, (&echoModel{}).Opened(), b.Out); k != KindRun|Answer || err != nil {
			t.Fatalf("run of %d: kind %#x, %v", id, k, err)
		}
		add := map[uint32]byte{5: 1, 900: 2}[id]
		if got := b.Out[0].Of(mapped[id]); !bytes.Equal(got, []byte{10 + add, 20 + add, 30 + add, 40 + add}) {
			t.Errorf("session %d gave %v", id, got)
		}
	}
	if k, _ := c.ask(KindClose, 5, nil); k != KindClose|Answer {
		t.Error("close was refused")
	}
	if k, _ := c.ask(KindRun, 5, 0); k != KindFailed {
		t.Error("a closed session ran")
	}
	if k, _ := c.ask(KindRun, 900, 1); k != KindRun|Answer {
		t.Error("closing one session ended the other")
	}
}

func TestServeRefuses(t *testing.T) {
	c := serve(t)
	refused := func(name string, k Kind, body []byte) {
		t.Helper()
		var f Failed
		if err := Unpack(body, &f); k != KindFailed || err != nil || f.Code == "" || f.Text == "" {
			t.Errorf("%s: kind %#x, %s, want Failed with a code and a text", name, k, body)
		}
	}
	ask := func(name string, kind Kind, session uint32, v any, fds ...int) {
		t.Helper()
		k, body := c.ask(kind, session, v, fds...)
		refused(name, k, body)
	}
	fd := memory(t, []byte("model"))
	ask("probe before hello", KindProbe, 0, nil)
	ask("hello in other versions", KindHello, 0, Hello{Versions: []int{2, 3}})
	if k, _ := c.ask(KindHello, 0, Hello{Versions: []int{Version}}); k != KindHello|Answer {
		t.Fatal("hello was refused")
	}
	ask("no such kind", 99, 0, nil)
	ask("open without a descriptor", KindOpen, 1, Open{Size: 5})
	ask("open with two", KindOpen, 1, Open{Size: 5}, fd, fd)
	ask("open with another size", KindOpen, 1, Open{Size: 6}, fd)
	ask("open as session 0", KindOpen, 0, Open{Size: 5}, fd)
	ask("open with a string for an object", KindOpen, 1, "open", fd)
	ask("descriptor with probe", KindProbe, 0, nil, fd)
	ask("run before open", KindRun, 1, 0)
	for id := range uint32(MaxSessions) {
		if k, body := c.ask(KindOpen, 1+id, Open{Size: 5}, fd); k != KindOpen|Answer {
			t.Fatalf("open %d: %s", id, body)
		}
	}
	ask("one session too many", KindOpen, 99, Open{Size: 5}, fd)
	ask("open twice", KindOpen, 1, Open{Size: 5}, fd)
	ask("run before map", KindRun, 1, 0)
	layout, _ := Layout((&echoModel{}).Opened(), 2)
	ask("map of less than it says", KindMap, 1, layout, fd)
	right := memory(t, make([]byte, layout.Size))
	if k, body := c.ask(KindMap, 1, layout, right); k != KindMap|Answer {
		t.Fatalf("map: %s", body)
	}
	ask("map twice", KindMap, 1, layout, right)
	ask("run of a buffer that is not", KindRun, 1, 2)
}

func TestServeEndsOnGarbage(t *testing.T) {
	for name, p := range map[string][]byte{"short": {1}, "huge": make([]byte, MaxPacket+100), "zeros": make([]byte, 100)} {
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := unix.Write(pair[0], p); err != nil {
			t.Fatal(err)
		}
		if err := Serve(pair[1], new(echo)); err == nil {
			t.Errorf("%s: served", name)
		}
		unix.Close(pair[0])
		unix.Close(pair[1])
	}
}

// FuzzAgent gives a runner any packet, with open sessions behind it.
func FuzzAgent(f *testing.F) {
	for _, v := range []any{nil, Hello{Versions: []int{1}}, Open{Size: 5}, Map{Size: 64, Buffers: []Buffer{{In: []Span{{0, 4}}, Out: []Span{{0, 4}}}}}} {
		for k := KindHello; k <= KindClose; k++ {
			p, err := Pack(Header{Kind: k, Session: 1, Request: 3}, v)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(p, true)
			f.Add(p, false)
		}
	}
	file := memory(f, []byte("model"))
	f.Fuzz(func(t *testing.T, p []byte, withFile bool) {
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(pair[0])
		defer unix.Close(pair[1])
		send := func(p []byte, fds ...int) {
			if len(p) > 0 && len(p) < 2*MaxPacket {
				_ = unix.Sendmsg(pair[0], p, unix.UnixRights(fds...), nil, 0)
			}
		}
		hello, _ := Pack(Header{Kind: KindHello}, Hello{Versions: []int{Version}})
		open, _ := Pack(Header{Kind: KindOpen, Session: 1}, Open{Size: 5})
		send(hello)
		send(open, file)
		if withFile {
			send(p, file)
		} else {
			send(p)
		}
		_ = unix.Shutdown(pair[0], unix.SHUT_WR)
		_ = Serve(pair[1], new(echo))
	})
}

// FuzzRunner gives an agent any packet as an answer.
func FuzzRunner(f *testing.F) {
	p, err := Pack(Header{Kind: KindOpen | Answer, Session: 1, Request: 2}, someOpened())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(p)
	p, _ = Pack(Header{Kind: KindFailed}, Failed{Code: hal.CodeOp, Text: "no"})
	f.Add(p)
	ran := make([]byte, HeaderSize+RanSize(2))
	(&Ran{Outputs: []Result{{Bytes: 5, Rank: 1, Dims: [MaxRank]int{5}}, {}}}).Put(ran[HeaderSize:])
	Header{Kind: KindRun | Answer}.Put(ran, RanSize(2))
	f.Add(ran)
	o := someOpened()
	layout, err := Layout(o, 2)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, p []byte) {
		_, body, err := Parse(p)
		if err != nil {
			return
		}
		var r Ran
		if r.Parse(body, o, layout.Buffers[0].Out) == nil {
			for i, out := range r.Outputs {
				if out.Bytes < 0 || out.Bytes > layout.Buffers[0].Out[i].Len || out.Rank > MaxRank {
					t.Fatalf("output %d passed as %+v", i, out)
				}
			}
		}
		var got Opened
		if Unpack(body, &got) != nil || got.Check() != nil {
			return
		}
		m, err := Layout(&got, 2)
		if err != nil {
			return
		}
		if err := m.Check(&got); err != nil {
			t.Fatalf("its own layout does not fit %+v: %v", got, err)
		}
	})
}
