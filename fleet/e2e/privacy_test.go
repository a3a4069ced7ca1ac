package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"image"
	"image/color"
	"image/jpeg"
	"image/png"
	"io"
	"io/fs"
	"mime/multipart"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/covey-edge/covey/fleet/link/linktest"
	"github.com/covey-edge/covey/fleet/wire"
	"github.com/covey-edge/covey/hal/haltest/port"
)

// halves is a folder with one picture: its left half is shown, its right one hidden.
func halves(t *testing.T) string {
	t.Helper()
	img := image.NewRGBA(image.Rect(0, 0, 640, 480))
	for i := range img.Pix {
		c := shown
		if i/4%640 >= 320 {
			c = hidden
		}
		img.Pix[i] = append(c[:], 255)[i%4]
	}
	var b bytes.Buffer
	if err := png.Encode(&b, img); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	write(t, filepath.Join(dir, "halves.png"), b.Bytes())
	return dir
}

// A home that is listened to: its board, and taps on all ways out.
type overheard struct {
	t          *testing.T
	home, page *tap
	results    int
	pictures   [][]byte // JPEGs that the page gave
}

// overhear lives with a board for a while, and asks for all that can be asked.
func overhear(t *testing.T, c *controller, lines ...string) (o *overheard, broker, api *tap) {
	t.Helper()
	house, page := linktest.Mosquitto(t), port.Free(t)
	o = &overheard{t: t, home: newTap(t, house), page: newTap(t, page)}
	e := newEdge(t, c, "cellar", append([]string{
		"home: {broker: mqtt://" + o.home.addr + "}",
		"local: {enabled: true, listen: " + page + "}",
		"health_seconds: 5",
		"pipelines:",
		"  cam:",
		"    source: {type: folder, path: " + halves(t) + ", loop: true, fps: 10}",
		"    model: " + filepath.Join(models(t), mobilenet),
		"    labels: " + filepath.Join(models(t), mobilenetLabels),
		"    accelerator: xnnpack",
	}, lines...)...)
	if c != nil {
		e.join()
		broker, api = e.tapFleet()
		c.covey("device", "results", "cellar", "cam", "on")
	}
	heard := listen(t, house, "-t", "covey/home/cellar/cam/result", "-t", "covey/home/cellar/cam/event")
	e.start()
	topics := wire.Home{Root: "covey", ID: "cellar"}
	next(t, heard, 60*time.Second, "event", func(topic, _ string) bool { return topic == topics.Event("cam") })
	snapshot := exec.Command("mosquitto_pub", "-h", "127.0.0.1", "-p", house[strings.LastIndexByte(house, ':')+1:], "-t", "covey/home/cellar/cam/snapshot/set", "-m", "snapshot")
	if out, err := snapshot.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	o.browse()
	for range 20 {
		next(t, heard, 60*time.Second, "result", func(topic, _ string) bool { return topic == topics.Result("cam") })
	}
	if c != nil {
		awaitResults(t, c, "cellar", "cam", 5)
		c.awaitDevice("cellar", 60*time.Second, "health", func(d device) bool { return d.Health != nil })
	}
	if err := e.stop(20 * time.Second); err != nil {
		t.Error(err)
	}
	for _, l := range o.logged(e) {
		t.Errorf("the agent's log has a trace of a picture: %s", l)
	}
	o.results = 21 + len(heard)
	return o, broker, api
}

// logged are the lines of the agent's log in which a picture is seen.
func (o *overheard) logged(e *edge) []string {
	return traced([][]byte{[]byte(e.tail(1 << 20))})
}

// browse asks the page for everything that it has.
func (o *overheard) browse() {
	o.t.Helper()
	at := "/api/v1/pipelines/cam/"
	for _, path := range []string{"/", "/healthz", "/readyz", "/metrics", "/api/v1/status", "/api/v1/session", "/api/v1/doctor", at + "settings", at + "regions"} {
		if code, b := o.get(path); code != http.StatusOK && path != "/readyz" {
			o.t.Errorf("GET %s: %d %.200s", path, code, b)
		}
	}
	_, b := o.get("/api/v1/events")
	var told struct {
		Events []struct {
			ID      string `json:"id"`
			Picture bool   `json:"picture"`
		} `json:"events"`
	}
	if err := json.Unmarshal(b, &told); err != nil || len(told.Events) == 0 {
		o.t.Fatalf("events: %v: %s", err, b)
	}
	for _, e := range told.Events {
		code, b := o.get("/api/v1/events/" + e.ID + "/picture")
		if (code == http.StatusOK) != e.Picture {
			o.t.Errorf("picture of %+v: %d", e, code)
		} else if e.Picture {
			o.pictures = append(o.pictures, b)
		}
	}
	o.preview(at + "preview")
	o.mjpeg(at + "preview.mjpeg")
}

func (o *overheard) open(ctx context.Context, path string) *http.Response {
	o.t.Helper()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+o.page.addr+path, nil)
	if err != nil {
		o.t.Fatal(err)
	}
	// Nothing is compressed: what is looked for would not be found.
	resp, err := (&http.Client{Transport: &http.Transport{DisableCompression: true, DisableKeepAlives: true}}).Do(r)
	if err != nil {
		o.t.Fatal(err)
	}
	if e := resp.Header.Get("Content-Encoding"); e != "" {
		o.t.Errorf("GET %s: encoded by %s", path, e)
	}
	return resp
}

func (o *overheard) get(path string) (int, []byte) {
	o.t.Helper()
	ctx, cancel := context.WithTimeout(o.t.Context(), time.Minute)
	defer cancel()
	resp := o.open(ctx, path)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		o.t.Fatalf("GET %s: %v", path, err)
	}
	return resp.StatusCode, b
}

// preview watches five moments.
func (o *overheard) preview(path string) {
	o.t.Helper()
	ctx, cancel := context.WithTimeout(o.t.Context(), time.Minute)
	defer cancel()
	resp := o.open(ctx, path)
	defer resp.Body.Close()
	in := bufio.NewScanner(resp.Body)
	in.Buffer(nil, 4<<20)
	for n := 0; n < 5; {
		if !in.Scan() {
			o.t.Fatalf("the preview ends: %d, %v", resp.StatusCode, in.Err())
		}
		text, ok := strings.CutPrefix(in.Text(), "data: ")
		if !ok {
			continue
		}
		var v struct {
			JPEG []byte `json:"jpeg"`
		}
		if err := json.Unmarshal([]byte(text), &v); err != nil {
			o.t.Fatal(err)
		}
		if n++; v.JPEG != nil {
			o.pictures = append(o.pictures, v.JPEG)
		}
	}
}

// mjpeg takes two pictures, where there are any.
func (o *overheard) mjpeg(path string) {
	o.t.Helper()
	ctx, cancel := context.WithTimeout(o.t.Context(), time.Minute)
	defer cancel()
	resp := o.open(ctx, path)
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusForbidden {
		return
	}
	parts := multipart.NewReader(resp.Body, "covey-picture")
	for range 2 {
		p, err := parts.NextPart()
		if err != nil {
			o.t.Fatal(err)
		}
		b, err := io.ReadAll(p)
		if err != nil {
			o.t.Fatal(err)
		}
		o.pictures = append(o.pictures, b)
	}
}

// atHome are the JPEGs that the house's broker was sent.
func (o *overheard) atHome() (all [][]byte) {
	for _, b := range o.home.kept() {
		for {
			i := bytes.Index(b, []byte{0xff, 0xd8, 0xff})
			if i < 0 {
				break
			}
			all = append(all, b[i:])
			b = b[i+3:]
		}
	}
	return all
}

// has counts a picture's pixels that are nearly of a colour.
func has(t *testing.T, picture []byte, c colour) (n int) {
	t.Helper()
	img, err := jpeg.Decode(bytes.NewReader(picture))
	if err != nil {
		t.Fatalf("a picture that is none: %v", err)
	}
	near := func(a, b byte) bool { return max(a, b)-min(a, b) < 50 }
	for y := range img.Bounds().Dy() {
		for x := range img.Bounds().Dx() {
			p := color.RGBAModel.Convert(img.At(x, y)).(color.RGBA)
			if near(p.R, c[0]) && near(p.G, c[1]) && near(p.B, c[2]) {
				n++
			}
		}
	}
	return n
}

// With privacy: numbers, which is the default, no byte of a picture leaves the board, by
// any way: not to the house's broker, not to the page, not to the fleet. The volume is
// that of numbers, too.
func TestNoPictureLeaves(t *testing.T) {
	t.Parallel()
	c := newController(t)
	o, broker, api := overhear(t, c)
	for name, p := range map[string]*tap{"home link": o.home, "page": o.page, "fleet link": broker, "controller's API": api} {
		if found := traced(p.kept()); len(found) > 0 {
			t.Errorf("%s: %q", name, found)
		}
	}
	if len(o.pictures) > 0 {
		t.Errorf("%d pictures on the page", len(o.pictures))
	}
	if err := filepath.WalkDir(c.data, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		if found := traced([][]byte{b}); len(found) > 0 {
			t.Errorf("the controller keeps a picture in %s: %q", path, found)
		}
		return err
	}); err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	// A result of five labels is some 500 bytes, and so is what a broker asks for it.
	if bound := 64<<10 + 1<<10*o.results; o.home.sent() > bound || broker.sent() > bound {
		t.Errorf("%d results: %d bytes to the house's broker, %d to the fleet's, want at most %d", o.results, o.home.sent(), broker.sent(), bound)
	}
	if broker.sent() == 0 || o.page.sent() == 0 {
		t.Error("a way is not listened to")
	}
	t.Logf("%d results: %d bytes to the house's broker, %d to the fleet's", o.results, o.home.sent(), broker.sent())
}

// The same ears hear pictures where they may be: on the page alone, or at home as well.
// What a mask covers is in none of them.
func TestPicturesThatMayLeave(t *testing.T) {
	t.Parallel()
	const mask = "    masks: [[[0.5, 0], [1, 0], [1, 1], [0.5, 1]]]"
	for _, to := range []string{"page", "home"} {
		for _, masked := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s-masked-%t", to, masked), func(t *testing.T) {
				t.Parallel()
				lines := []string{"    privacy: frames", "    pictures: " + to}
				if masked {
					lines = append(lines, mask)
				}
				o, _, _ := overhear(t, nil, lines...)
				if found := traced(o.page.kept()); len(found) == 0 {
					t.Error("no picture on the page")
				}
				if found := traced(o.home.kept()); (len(found) > 0) != (to == "home") {
					t.Errorf("to the house's broker: %q", found)
				}
				all := append(o.pictures, o.atHome()...)
				if len(o.pictures) < 3 || to == "home" && len(all) == len(o.pictures) {
					t.Errorf("%d pictures on the page, %d in all", len(o.pictures), len(all))
				}
				for i, p := range all {
					left, right := has(t, p, shown), has(t, p, hidden)
					if left == 0 || (right == 0) != masked {
						t.Errorf("picture %d of %d: %d pixels of what is shown, %d of what is not", i, len(all), left, right)
					}
				}
				t.Logf("%d pictures on the page, %d at home", len(o.pictures), len(all)-len(o.pictures))
			})
		}
	}
}
