package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/covey-edge/covey/fleet/link/linktest"
	"github.com/covey-edge/covey/fleet/wire"
	"github.com/covey-edge/covey/hal/haltest/port"
)

// A cardboard is a board with a page and a house, on a card of its own where that is asked for.
type cardboard struct {
	*edge
	page  string
	heard <-chan string
	data  string
}

func newCardboard(t *testing.T) *cardboard {
	t.Helper()
	house := linktest.Mosquitto(t)
	b := &cardboard{page: port.Free(t), heard: listen(t, house, "-t", wire.Home{Root: "covey", ID: "attic"}.Result("cam"))}
	b.edge = newEdge(t, nil, "attic", "home: {broker: mqtt://"+house+"}", "local: {enabled: true, listen: "+b.page+"}", "health_seconds: 5",
		camera(t, 2, "loop: true, fps: 20")+"    accelerator: xnnpack")
	b.data = filepath.Join(b.dir, "data")
	return b
}

// card makes the data folder a file system of its own, which root may.
func (b *cardboard) card() {
	b.t.Helper()
	if err := os.MkdirAll(b.data, 0o700); err != nil {
		b.t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", b.data, "tmpfs", 0, "size=16m"); err != nil {
		b.t.Skipf("no file system of the test's own here: %v", err)
	}
	b.t.Cleanup(func() {
		b.kill()
		syscall.Unmount(b.data, syscall.MNT_DETACH)
	})
}

// works waits for results that are made from now on.
func (b *cardboard) works(what string) {
	b.t.Helper()
	since := time.Now()
	for n := 0; n < 10; {
		next(b.t, b.heard, 60*time.Second, "result "+what, func(_, payload string) bool {
			r, err := decode[wire.Result]([]byte(payload))
			if err == nil && r.TS.After(since) {
				n++
			}
			return true
		})
	}
}

// flags are what the page says is wrong with what is kept.
func (b *cardboard) flags() []string {
	b.t.Helper()
	resp, err := http.Get("http://" + b.page + "/api/v1/status")
	if err != nil {
		b.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	var s struct {
		Outbox struct {
			Flags []string `json:"flags"`
		} `json:"outbox"`
	}
	if err == nil {
		err = json.Unmarshal(text, &s)
	}
	if err != nil {
		b.t.Fatalf("status: %v: %s", err, text)
	}
	return s.Outbox.Flags
}

// leaves ends the agent, which leaves nothing in memory.
func (b *cardboard) leaves() {
	b.t.Helper()
	if err := b.stop(20 * time.Second); err != nil {
		b.t.Error(err)
	}
	for _, dir := range []string{"/dev/shm", os.TempDir()} {
		if left, _ := filepath.Glob(filepath.Join(dir, fmt.Sprintf("covey-data-%d-*", b.cmd.Process.Pid))); len(left) > 0 {
			b.t.Errorf("%v is left", left)
		}
	}
}

// With a card that is only read any more a board starts and works, and says how.
func TestReadOnlyCard(t *testing.T) {
	t.Parallel()
	b := newCardboard(t)
	b.card()
	b.start()
	b.works("at first")
	if f := b.flags(); len(f) > 0 {
		t.Errorf("flags at first: %v", f)
	}
	b.leaves()
	if err := syscall.Mount("", b.data, "", syscall.MS_REMOUNT|syscall.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	b.start()
	b.works("on a read-only card")
	if f := b.flags(); !slices.Contains(f, "data_in_memory") {
		t.Errorf("flags on a read-only card: %v", f)
	}
	if !b.said("E_DISK_RO", "works from memory") {
		t.Error("the log does not say that the card is only read")
	}
	b.leaves()
	if err := syscall.Mount("", b.data, "", syscall.MS_REMOUNT, "size=16m"); err != nil {
		t.Fatal(err)
	}
	b.start()
	b.works("on a card that is written again")
	if f := b.flags(); len(f) > 0 {
		t.Errorf("flags on a card that is written again: %v", f)
	}
	b.leaves()
}

// A card that fills up while the agent runs stops no result, nor does one that is full
// when it starts.
func TestFullCard(t *testing.T) {
	t.Parallel()
	b := newCardboard(t)
	b.card()
	b.start()
	b.works("at first")
	fill, err := os.Create(filepath.Join(b.data, "fill"))
	if err != nil {
		t.Fatal(err)
	}
	for chunk := make([]byte, 64<<10); err == nil; {
		_, err = fill.Write(chunk)
		if err != nil && len(chunk) > 1 { // to the last byte
			chunk, err = chunk[:len(chunk)/2], nil
		}
	}
	fill.Close()
	b.works("on a card that has filled up")
	// What waits when it ends is lost, and it says so.
	if err := b.stop(20 * time.Second); err != nil && !b.said("E_DISK_FULL") {
		t.Error(err)
	}
	b.start()
	b.works("on a full card")
	if f := b.flags(); !slices.Contains(f, "data_in_memory") || !b.said("E_DISK_FULL", "works from memory") {
		t.Errorf("flags on a full card: %v", f)
	}
	b.leaves()
}

// What is damaged is set aside, made anew, and said.
func TestRottenFiles(t *testing.T) {
	t.Parallel()
	b := newCardboard(t)
	b.start()
	b.works("at first")
	b.kill()
	rot := []string{"state.json", "state.json.old", "outbox.db", "accelerators.json", "formats"}
	for _, name := range rot {
		write(t, filepath.Join(b.data, name), bytes.Repeat([]byte("rot\x00"), 4096))
	}
	b.start()
	b.works("with rotten files")
	for _, name := range []string{"state.json", "outbox.db"} {
		if kept, err := os.ReadFile(filepath.Join(b.data, name+".corrupt-1")); err != nil || !bytes.HasPrefix(kept, []byte("rot")) {
			t.Errorf("%s was not set aside: %v", name, err)
		}
	}
	if f := b.flags(); !slices.Contains(f, "outbox_rebuilt") {
		t.Errorf("flags: %v", f)
	}
	if !b.said("E_STATE_CORRUPT") || !strings.Contains(b.tail(10_000), "outbox") {
		t.Error("the log does not say what was broken")
	}
	b.leaves()
}
