package uplink

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/covey-edge/covey/fleet/blob"
	"github.com/covey-edge/covey/fleet/blob/pack"
	"github.com/covey-edge/covey/fleet/link/linktest"
	"github.com/covey-edge/covey/fleet/link/mem"
	"github.com/covey-edge/covey/fleet/wire"
	"github.com/covey-edge/covey/hal"
)

var topics = wire.Device{Root: "covey", ID: device}

func TestBirthInOrder(t *testing.T) {
	b := mem.NewBroker()
	sub := listen(t, b, "controller", "covey/1/d/+/up/#")
	u := open(t, Config{Dir: t.TempDir(), Fleet: &FleetConfig{Link: b.Link("pi-1", false), MID: "m1"}})
	u.SetHello(wire.Hello{Board: "test"})
	u.SetReported(wire.Reported{Rev: 7})
	stop := running(t, u)
	sub.UntilGot(3)
	want := []string{topics.Hello(), topics.Reported(), topics.Status()}
	for i, m := range sub.Got()[:3] {
		if m.Topic != want[i] {
			t.Errorf("message %d on %s, want %s", i, m.Topic, want[i])
		}
	}
	first, err := wire.Parse[wire.Status](sub.Got()[2].Payload, 1000)
	if err != nil || first.State != wire.StateOnline || first.MID != "m1" {
		t.Fatalf("%+v %v", first, err)
	}
	// A cut: the will carries the sid of the connection that ended; the next has another.
	b.Cut("pi-1")
	// The first online comes twice when the cut was quicker than its acknowledgement.
	var will, again *wire.Status
	sub.Until("offline, then online again", func() bool {
		ss := sub.Messages("/up/status")
		if len(ss) < 3 {
			return false
		}
		will, _ = wire.Parse[wire.Status](ss[1].Payload, 1000)
		again, _ = wire.Parse[wire.Status](ss[len(ss)-1].Payload, 1000)
		return again.State == wire.StateOnline && again.SID != first.SID
	})
	if will.State != wire.StateOffline || will.SID != first.SID || again.State != wire.StateOnline || again.SID != first.SID+1 {
		t.Errorf("sid: %d online, will %s %d, again %s %d", first.SID, will.State, will.SID, again.State, again.SID)
	}
	stop()
	m, _ := b.Retained(topics.Status())
	last, err := wire.Parse[wire.Status](m.Payload, 1000)
	if err != nil || last.State != wire.StateStopped || last.SID != again.SID {
		t.Errorf("after a clean stop: %+v %v", last, err)
	}
}

func TestLateWillIsContradicted(t *testing.T) {
	b := mem.NewBroker()
	sub := listen(t, b, "controller", "covey/1/d/+/up/#")
	u := open(t, Config{Dir: t.TempDir(), Fleet: &FleetConfig{Link: b.Link("pi-1", false), MID: "m1"}})
	running(t, u)
	sub.UntilGot(1)
	b.Publish(wire.Message{Topic: topics.Status(), QoS: 1, Retain: true, Payload: encode(wire.Status{V: 1, State: wire.StateOffline, SID: 1, MID: "m1"})})
	sub.UntilGot(3)
	if m, _ := b.Retained(topics.Status()); !strings.Contains(string(m.Payload), `"online"`) {
		t.Errorf("status stays %s", m.Payload)
	}
}

// Two machines with one identity: both notice, and they do not throw each other
// out for ever.
func TestDuplicateIdentity(t *testing.T) {
	dirs := []string{t.TempDir(), t.TempDir()}
	synctest.Test(t, func(t *testing.T) {
		b := mem.NewBroker()
		watch := &births{}
		linktest.Start(t, b.Link("controller", false), wire.Spec{
			Subscribe: []wire.Subscription{{Filter: "covey/1/d/+/up/#", QoS: 1}}, Receive: watch.receive,
		})
		var us []*Uplink
		for i, dir := range dirs {
			u := open(t, Config{Dir: dir, Fleet: &FleetConfig{Link: b.Link("pi-1", false), MID: fmt.Sprint("m", i)}})
			us = append(us, u)
			defer running(t, u)()
		}
		time.Sleep(30 * time.Minute)
		if n := watch.count(); n < 4 || n > 120 {
			t.Errorf("%d births in 30 minutes", n)
		}
		if !slices.Contains(us[0].Stats().Flags, "duplicate_identity") || !slices.Contains(us[1].Stats().Flags, "duplicate_identity") {
			t.Errorf("flags: %v, %v", us[0].Stats().Flags, us[1].Stats().Flags)
		}
	})
}

type births struct {
	mu sync.Mutex
	n  int
}

func (b *births) receive(m wire.Message) error {
	if strings.Contains(string(m.Payload), `"state":"online"`) {
		b.mu.Lock()
		b.n++
		b.mu.Unlock()
	}
	return nil
}

func (b *births) count() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.n
}

func desired(rev int, results string) []byte {
	return fmt.Appendf(nil, `{"signed":{"v":1,"rev":%d,"device":"pi-1","pipelines":{},"config":{"results":[%s]}},"signatures":[]}`, rev, results)
}

func TestDesired(t *testing.T) {
	b := mem.NewBroker()
	put := func(payload []byte) {
		b.Publish(wire.Message{Topic: topics.Desired(), Payload: payload, QoS: 1, Retain: true})
	}
	dir := t.TempDir()
	revs, faults := make(chan uint64, 10), make(chan *wire.Fault, 10)
	cfg := func() *FleetConfig {
		return &FleetConfig{Link: b.Link("pi-1", false), MID: "m",
			OnDesired: func(document []byte, d *wire.Desired) {
				if !bytes.Contains(document, fmt.Appendf(nil, `"rev":%d,`, d.Signed.Rev)) {
					t.Errorf("not its bytes: %s", document)
				}
				revs <- d.Signed.Rev
			}, OnFault: func(f *wire.Fault) { faults <- f }}
	}
	put(desired(1, `"porch"`))
	u := open(t, Config{Dir: dir, Fleet: cfg()})
	stop := running(t, u)
	if rev := <-revs; rev != 1 {
		t.Fatalf("rev %d", rev)
	}
	b.Cut("pi-1") // it comes again with the subscription, and is not news
	put([]byte(`{"signed":`))
	if f := <-faults; f == nil || f.Code != wire.CodeJSON {
		t.Errorf("fault %v", f)
	}
	put([]byte(`{"signed":`))
	put([]byte(strings.Replace(string(desired(2, "")), "pi-1", "pi-2", 1)))
	if f := <-faults; f == nil || f.Code != "E_TARGET" {
		t.Errorf("fault %v", f)
	}
	put(desired(3, `"*"`))
	if f := <-faults; f != nil {
		t.Errorf("the fault stays: %v", f)
	}
	if rev := <-revs; rev != 3 {
		t.Errorf("rev %d, want 3", rev)
	}
	if wanted(&u.results, "anything") {
		t.Error("results are sent before anybody vouched for who wants them")
	}
	u.SetResults([]string{"*"})
	stop()
	// What the fleet wants of results is known before it is connected again.
	b.Down(true)
	u = open(t, Config{Dir: dir, Fleet: cfg()})
	if !wanted(&u.results, "anything") {
		t.Error("which results the fleet wants was forgotten")
	}
	running(t, u)
}

func TestStepIsDurable(t *testing.T) {
	b := mem.NewBroker()
	sub := listen(t, b, "controller", "covey/1/d/+/up/exec/#")
	dir := t.TempDir()
	u := open(t, Config{Dir: dir, Fleet: &FleetConfig{Link: b.Link("pi-1", false), MID: "m"}})
	for n := range 3 {
		if err := u.Step(wire.ExecStep{Execution: "ex-1", Pipeline: "porch", Release: wire.Digest(strings.Repeat("a", 64)), N: n + 1, State: wire.Downloading, TS: time.Now()}); err != nil {
			t.Fatal(err)
		}
	}
	u.box.file.db.Close() // and die
	u = open(t, Config{Dir: dir, Fleet: &FleetConfig{Link: b.Link("pi-1", false), MID: "m"}})
	running(t, u)
	sub.UntilGot(3)
	for i, m := range sub.Got()[:3] {
		s, err := wire.Parse[wire.ExecStep](m.Payload, wire.MaxExec)
		if err != nil || s.Seq != uint64(i+1) || s.N != i+1 || s.ID != fmt.Sprintf("pi-1/ex-1/%d", i+1) {
			t.Errorf("%s: %v", m.Payload, err)
		}
	}
}

// server answers block requests as a controller does.
type server struct {
	b      *mem.Broker
	data   []byte
	base   []byte
	flags  [256]int // of blocks sent
	all    bool     // every block is packed, not each second
	gone   bool
	lie    map[int]bool // blocks sent wrong once
	mu     sync.Mutex
	sent   map[int]int
	notice func(total int)
}

func (s *server) receive(m wire.Message) error {
	g, err := wire.Parse[wire.BlockGet](m.Payload, 64<<10)
	if err != nil {
		return err
	}
	packer, base := pack.NewPacker(1), (*pack.Base)(nil)
	if g.Base != "" {
		base = &pack.Base{R: bytes.NewReader(s.base)}
	}
	for i := range len(g.Bits) * 8 {
		n := g.From + i
		if g.Bits[i/8]>>(i%8)&1 == 0 || n*wire.BlockSize >= len(s.data) {
			continue
		}
		block := s.data[n*wire.BlockSize : min((n+1)*wire.BlockSize, len(s.data))]
		payload := append([]byte{wire.BlockRaw}, block...)
		if s.all || n%2 == 1 {
			payload = packer.Pack(nil, block, int64(n)*wire.BlockSize, base)
		}
		s.mu.Lock()
		if s.lie[n] {
			delete(s.lie, n)
			payload = append([]byte{wire.BlockRaw}, make([]byte, len(block))...)
		}
		if s.gone {
			payload = append([]byte{wire.BlockGone}, "not yours"...)
		}
		s.sent[n]++
		s.flags[payload[0]]++
		total := 0
		for _, k := range s.sent {
			total += k
		}
		s.mu.Unlock()
		s.b.Publish(wire.Message{Topic: topics.Block(g.SHA, n), Payload: payload})
		if s.notice != nil {
			s.notice(total)
		}
	}
	return nil
}

func someFile(t *testing.T, size int) (data []byte, sha wire.Digest, hashes []byte) {
	t.Helper()
	r := rand.New(rand.NewPCG(1, 2))
	data = make([]byte, size)
	for i := range data {
		data[i] = byte(r.Uint32() >> 28)
	}
	sum := sha256.Sum256(data)
	for b := data; len(b) > 0; b = b[min(wire.BlockSize, len(b)):] {
		h := sha256.Sum256(b[:min(wire.BlockSize, len(b))])
		hashes = append(hashes, h[:]...)
	}
	return data, wire.Digest(hex.EncodeToString(sum[:])), hashes
}

func TestFetch(t *testing.T) {
	data, sha, hashes := someFile(t, 40*wire.BlockSize+123)
	b := mem.NewBroker()
	s := &server{b: b, data: data, sent: map[int]int{}, lie: map[int]bool{3: true, 17: true}}
	s.notice = func(total int) {
		if total%12 == 0 {
			b.Cut("pi-1~x")
		}
	}
	linktest.Start(t, b.Link("controller", false), wire.Spec{Subscribe: []wire.Subscription{{Filter: topics.BlockGet()}}, Receive: s.receive}).UntilUp(1)
	u := open(t, Config{Dir: t.TempDir(), Fleet: &FleetConfig{
		Link: b.Link("pi-1", false), Bulk: func() wire.Link { return b.Link("pi-1~x", true) }, MID: "m"}})
	running(t, u)
	store, err := blob.Open(filepath.Join(t.TempDir(), "blobs"), blob.OS{})
	if err != nil {
		t.Fatal(err)
	}
	p, err := store.Receive(sha, int64(len(data)), hashes)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	began := time.Now()
	if err := u.Fetch(ctx, sha, p, nil); err != nil {
		t.Fatal(err)
	}
	if d := time.Since(began); d > minPatience {
		t.Errorf("took %v: a new connection did not ask again", d)
	}
	if err := p.Finish(ctx); err != nil {
		t.Fatal(err)
	}
	total := 0
	for _, k := range s.sent {
		total += k
	}
	t.Logf("%d blocks sent for %d", total, len(s.sent))
	if len(s.sent) != 41 || total > 41+2+100 {
		t.Errorf("%d blocks sent for %d: more than what the cuts and lies cost", total, len(s.sent))
	}

	s.gone = true
	other, _, _ := someFile(t, 1000)
	sum := sha256.Sum256(other)
	gone, err := store.Receive(wire.Digest(hex.EncodeToString(sum[:])), 1000, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer gone.Close()
	if err := u.Fetch(ctx, wire.Digest(hex.EncodeToString(sum[:])), gone, nil); !errors.Is(err, ErrGone) || !strings.Contains(err.Error(), "not yours") {
		t.Errorf("a file that is gone: %v", err)
	}
}

// A file that is like one which is here comes as differences; where the one that is
// here has rotted, whole.
func TestFetchDifferences(t *testing.T) {
	old, _, _ := someFile(t, 20*wire.BlockSize)
	data := bytes.Clone(old)
	for i := 0; i < len(data); i += 7 {
		data[i]++
	}
	sum := sha256.Sum256(data)
	sha := wire.Digest(hex.EncodeToString(sum[:]))
	hashes := []byte{}
	for b := range slices.Chunk(data, wire.BlockSize) {
		h := sha256.Sum256(b)
		hashes = append(hashes, h[:]...)
	}
	rotten := bytes.Clone(old)
	rotten[5*wire.BlockSize+9] ^= 4
	for name, here := range map[string][]byte{"sound": old, "rotten": rotten} {
		t.Run(name, func(t *testing.T) {
			b := mem.NewBroker()
			s := &server{b: b, data: data, base: old, sent: map[int]int{}, all: true}
			linktest.Start(t, b.Link("controller", false), wire.Spec{Subscribe: []wire.Subscription{{Filter: topics.BlockGet()}}, Receive: s.receive}).UntilUp(1)
			u := open(t, Config{Dir: t.TempDir(), Fleet: &FleetConfig{
				Link: b.Link("pi-1", false), Bulk: func() wire.Link { return b.Link("pi-1~x", true) }, MID: "m"}})
			running(t, u)
			store, err := blob.Open(filepath.Join(t.TempDir(), "blobs"), blob.OS{})
			if err != nil {
				t.Fatal(err)
			}
			p, err := store.Receive(sha, int64(len(data)), hashes)
			if err != nil {
				t.Fatal(err)
			}
			defer p.Close()
			if err := u.Fetch(t.Context(), sha, p, &Base{SHA: digestOf(old), R: bytes.NewReader(here)}); err != nil {
				t.Fatal(err)
			}
			if err := p.Finish(t.Context()); err != nil {
				t.Fatal(err)
			}
			diffs := s.flags[wire.BlockDiff] + s.flags[wire.BlockDiffFSE]
			if name == "sound" && diffs != 20 || name == "rotten" && (diffs < 6 || len(s.sent) != 20) {
				t.Errorf("%d blocks came as differences, flags %v", diffs, s.flags)
			}
		})
	}
}

func digestOf(b []byte) wire.Digest {
	sum := sha256.Sum256(b)
	return wire.Digest(hex.EncodeToString(sum[:]))
}

// A controller that stands and sends nothing, or the same for ever, is given up after
// a minute; one that is not there is waited for, unless there is another way.
func TestFetchStalls(t *testing.T) {
	data, sha, hashes := someFile(t, 4*wire.BlockSize)
	for name, c := range map[string]struct {
		answer   func(b *mem.Broker, g *wire.BlockGet)
		down     bool
		otherWay bool
		want     hal.Code
	}{
		"silent":   {func(*mem.Broker, *wire.BlockGet) {}, false, false, hal.CodeTimeout},
		"no block": {func(b *mem.Broker, g *wire.BlockGet) { b.Publish(wire.Message{Topic: topics.Block(g.SHA, 0)}) }, false, false, hal.CodeTimeout},
		"one for ever": {func(b *mem.Broker, g *wire.BlockGet) {
			time.Sleep(time.Second)
			b.Publish(wire.Message{Topic: topics.Block(g.SHA, 0), Payload: append([]byte{wire.BlockRaw}, data[:wire.BlockSize]...)})
		}, false, false, hal.CodeTimeout},
		"not there":              {nil, true, false, ""},
		"not there, another way": {nil, true, true, hal.CodeTimeout},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			synctest.Test(t, func(t *testing.T) {
				b := mem.NewBroker()
				linktest.Start(t, b.Link("controller", false), wire.Spec{Subscribe: []wire.Subscription{{Filter: topics.BlockGet()}}, Receive: func(m wire.Message) error {
					g, err := wire.Parse[wire.BlockGet](m.Payload, 64<<10)
					if err == nil && c.answer != nil {
						c.answer(b, g)
					}
					return err
				}}).UntilUp(1)
				b.Down(c.down)
				u := open(t, Config{Dir: dir, Fleet: &FleetConfig{OtherWay: c.otherWay,
					Link: b.Link("pi-1", false), Bulk: func() wire.Link { return b.Link("pi-1~x", true) }, MID: "m"}})
				stop := running(t, u)
				store, err := blob.Open(filepath.Join(dir, "blobs"), blob.OS{})
				if err != nil {
					t.Fatal(err)
				}
				p, err := store.Receive(sha, int64(len(data)), hashes)
				if err != nil {
					t.Fatal(err)
				}
				ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
				defer cancel()
				began := time.Now()
				err = u.Fetch(ctx, sha, p, nil)
				if got := hal.CodeOf(err); got != c.want || got != "" && time.Since(began) > 3*maxStall {
					t.Errorf("%v after %v, want code %q", err, time.Since(began), c.want)
				}
				p.Close()
				stop()
			})
		})
	}
}
