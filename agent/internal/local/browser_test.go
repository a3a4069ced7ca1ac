package local

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// A program is a real Chromium without a window, driven by the DevTools protocol over
// two pipes: JSON that ends with a zero byte.
type program struct {
	in     io.Writer
	closed chan struct{} // it says nothing any more

	mu      sync.Mutex
	last    int
	waiting map[int]chan message // by id
	faults  map[string][]string  // by page: what its console complains about
}

// A browser is one page of a program, with cookies of its own.
type browser struct {
	*program
	t       *testing.T
	session string
}

type message struct {
	ID        int             `json:"id,omitempty"`
	SessionID string          `json:"sessionId,omitempty"`
	Method    string          `json:"method,omitempty"`
	Params    json.RawMessage `json:"params,omitempty"`
	Result    json.RawMessage `json:"result,omitempty"`
	Error     *struct {
		Message string `json:"message"`
	} `json:"error,omitempty"`
}

// chromium starts one with an empty profile. Without the program the test is skipped,
// but not in scripts/test.
func chromium(t *testing.T) *program {
	t.Helper()
	path, err := exec.LookPath("chromium")
	if err != nil {
		if os.Getenv("COVEY_BROWSER_NEEDED") != "" {
			t.Fatal("no chromium: apt-get install chromium")
		}
		t.Skip("no chromium: apt-get install chromium")
	}
	toRead, in, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	out, toWrite, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	profile, err := os.MkdirTemp("", "covey-browser-")
	if err != nil {
		t.Fatal(err)
	}
	c := exec.Command(path, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--hide-scrollbars",
		"--disable-extensions", "--disable-background-networking", "--disable-component-update", "--user-data-dir="+profile, "--remote-debugging-pipe", "about:blank")
	c.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + profile, "TZ=UTC", "LANG=C.UTF-8"}
	c.ExtraFiles = []*os.File{toRead, toWrite} // 3 and 4
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	toRead.Close()
	toWrite.Close()
	p := &program{in: in, waiting: map[int]chan message{}, faults: map[string][]string{}, closed: make(chan struct{})}
	go p.listen(out)
	t.Cleanup(func() {
		in.Close() // without its driver it ends
		_ = syscall.Kill(-c.Process.Pid, syscall.SIGKILL)
		_ = c.Wait()
		out.Close()
		<-p.closed
		os.RemoveAll(profile)
	})
	return p
}

func (p *program) listen(out io.Reader) {
	defer close(p.closed)
	r := bufio.NewReaderSize(out, 1<<20)
	for {
		text, err := r.ReadBytes(0)
		if err != nil {
			return
		}
		var m message
		if json.Unmarshal(bytes.TrimSuffix(text, []byte{0}), &m) != nil {
			continue
		}
		p.mu.Lock()
		if to := p.waiting[m.ID]; m.ID > 0 && to != nil {
			delete(p.waiting, m.ID)
			to <- m // has room for it
		}
		switch m.Method {
		case "Runtime.exceptionThrown", "Log.entryAdded":
			p.faults[m.SessionID] = append(p.faults[m.SessionID], string(m.Params))
		}
		p.mu.Unlock()
	}
}

// call asks the page, or the browser while there is none.
func (b *browser) call(method string, params, out any) error {
	in, err := json.Marshal(params)
	if err != nil {
		return err
	}
	b.mu.Lock()
	b.last++
	m, answer := message{ID: b.last, SessionID: b.session, Method: method, Params: in}, make(chan message, 1)
	b.waiting[m.ID] = answer
	b.mu.Unlock()
	text, err := json.Marshal(m)
	if err != nil {
		return err
	}
	if _, err := b.in.Write(append(text, 0)); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	select {
	case m = <-answer:
	case <-b.closed:
		return fmt.Errorf("%s: the browser has ended", method)
	case <-ctx.Done():
		return fmt.Errorf("%s: %w", method, ctx.Err())
	}
	if m.Error != nil {
		return fmt.Errorf("%s: %s", method, m.Error.Message)
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(m.Result, out)
}

func (b *browser) must(method string, params, out any) {
	b.t.Helper()
	if err := b.call(method, params, out); err != nil {
		b.t.Fatal(err)
	}
}

// A screen is what somebody looks at the page with.
type screen struct {
	width, height int
	phone         bool
	dark          bool
}

// open shows a page on a screen, until the test ends.
func (p *program) open(t *testing.T, url string, s screen) *browser {
	t.Helper()
	b := &browser{program: p, t: t}
	var own struct {
		ID string `json:"browserContextId"`
	}
	b.must("Target.createBrowserContext", map[string]any{"disposeOnDetach": true}, &own)
	var target struct{ TargetID string }
	b.must("Target.createTarget", map[string]any{"url": "about:blank", "browserContextId": own.ID}, &target)
	var at struct{ SessionID string }
	b.must("Target.attachToTarget", map[string]any{"targetId": target.TargetID, "flatten": true}, &at)
	b.session = at.SessionID
	t.Cleanup(func() {
		b.session = ""
		_ = b.call("Target.disposeBrowserContext", own, nil)
	})
	for _, domain := range []string{"Page", "Runtime", "Log"} {
		b.must(domain+".enable", struct{}{}, nil)
	}
	b.must("Emulation.setDeviceMetricsOverride", map[string]any{"width": s.width, "height": s.height, "deviceScaleFactor": 1, "mobile": s.phone}, nil)
	b.must("Emulation.setTouchEmulationEnabled", map[string]any{"enabled": s.phone}, nil)
	scheme := "light"
	if s.dark {
		scheme = "dark"
	}
	b.must("Emulation.setEmulatedMedia", map[string]any{"features": []map[string]string{{"name": "prefers-color-scheme", "value": scheme}}}, nil)
	b.must("Page.navigate", map[string]any{"url": url}, nil)
	return b
}

// eval is the value of a JavaScript expression; promises are waited for.
func (b *browser) eval(expression string, out any) {
	b.t.Helper()
	var is struct {
		Result           struct{ Value json.RawMessage }
		ExceptionDetails *struct {
			Text      string
			Exception struct{ Description string }
		}
	}
	ask := map[string]any{"expression": expression, "awaitPromise": true, "returnByValue": true}
	err := b.call("Runtime.evaluate", ask, &is)
	for err != nil && (strings.Contains(err.Error(), "navigated") || strings.Contains(err.Error(), "Cannot find")) {
		err = b.call("Runtime.evaluate", ask, &is) // the page was loaded again meanwhile
	}
	if err != nil {
		b.t.Fatal(err)
	}
	if e := is.ExceptionDetails; e != nil {
		b.t.Fatalf("%s: %s %s", expression, e.Text, e.Exception.Description)
	}
	if out != nil {
		if err := json.Unmarshal(is.Result.Value, out); err != nil {
			b.t.Fatalf("%s: %v in %s", expression, err, is.Result.Value)
		}
	}
}

// until waits for a condition on the page: it is asked with every frame that is drawn.
func (b *browser) until(condition string) {
	b.t.Helper()
	var met bool
	b.eval(`new Promise((done) => {
		const end = Date.now() + 30000;
		const look = () => { let is = false; try { is = `+condition+`; } catch {} is || Date.now() > end ? done(!!is) : requestAnimationFrame(look); };
		look();
	})`, &met)
	if !met {
		var text string
		b.eval(`document.body.innerText`, &text)
		b.t.Fatalf("never: %s; the page says:\n%s\nand complains: %v", condition, text, b.complaints())
	}
}

// forgive forgets what the page has complained about.
func (b *browser) forgive() {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.faults, b.session)
}

func (b *browser) complaints() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.faults[b.session])
}

// A point is one on the screen.
type point struct{ X, Y float64 }

// on is where (x, y) of 0..1 of an element is, which is brought to be seen. What is on
// the picture is so with all of it: from one place there to another nothing scrolls.
func (b *browser) on(selector string, x, y float64) (p point) {
	b.t.Helper()
	b.eval(fmt.Sprintf(`(() => { const e = document.querySelector(%q); (e.closest("#stage") ?? e).scrollIntoView({block: "nearest", behavior: "instant"});
		const r = e.getBoundingClientRect(); return {X: r.left + r.width * %v, Y: r.top + r.height * %v}; })()`, selector, x, y), &p)
	return p
}

func (b *browser) mouse(kind string, p point, buttons int) {
	b.t.Helper()
	button := "none"
	if kind != "mouseMoved" || buttons > 0 {
		button = "left"
	}
	b.must("Input.dispatchMouseEvent", map[string]any{"type": kind, "x": p.X, "y": p.Y, "button": button, "buttons": buttons, "clickCount": 1}, nil)
}

// click clicks with the mouse.
func (b *browser) click(p point) {
	b.t.Helper()
	b.mouse("mouseMoved", p, 0)
	b.mouse("mousePressed", p, 1)
	b.mouse("mouseReleased", p, 0)
}

// drag goes from one point to another with the button held.
func (b *browser) drag(from, to point) {
	b.t.Helper()
	b.mouse("mouseMoved", from, 0)
	b.mouse("mousePressed", from, 1)
	for i := 1; i <= 4; i++ {
		part := float64(i) / 4
		b.mouse("mouseMoved", point{from.X + part*(to.X-from.X), from.Y + part*(to.Y-from.Y)}, 1)
	}
	b.mouse("mouseReleased", to, 0)
}

// finger puts one down, moves it along the points and lifts it.
func (b *browser) finger(along ...point) {
	b.t.Helper()
	for i, p := range along {
		kind := "touchMove"
		if i == 0 {
			kind = "touchStart"
		}
		b.must("Input.dispatchTouchEvent", map[string]any{"type": kind, "touchPoints": []map[string]any{{"x": p.X, "y": p.Y}}}, nil)
	}
	b.must("Input.dispatchTouchEvent", map[string]any{"type": "touchEnd", "touchPoints": []any{}}, nil)
}

// keys presses one after the other: names of keys, or single letters. "Shift+" may stand
// before one.
func (b *browser) keys(names ...string) {
	b.t.Helper()
	codes := map[string]int{"Tab": 9, "Enter": 13, "Escape": 27, " ": 32, "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40, "Delete": 46, "Insert": 45, "Backspace": 8, "Home": 36, "End": 35}
	for _, name := range names {
		modifiers := 0
		for prefix, bit := range map[string]int{"Ctrl+": 2, "Shift+": 8} {
			if rest, ok := strings.CutPrefix(name, prefix); ok {
				name, modifiers = rest, bit
			}
		}
		text := ""
		if len(name) == 1 && modifiers == 0 {
			text = name
		}
		if name == "Enter" {
			text = "\r"
		}
		code := codes[name]
		if code == 0 {
			code = int(strings.ToUpper(name)[0])
		}
		p := map[string]any{"type": "keyDown", "key": name, "code": name, "windowsVirtualKeyCode": code, "modifiers": modifiers, "text": text}
		b.must("Input.dispatchKeyEvent", p, nil)
		p["type"] = "keyUp"
		delete(p, "text")
		b.must("Input.dispatchKeyEvent", p, nil)
	}
}

// focused is how a screen reader would name what has the focus.
func (b *browser) focused() (name string) {
	b.t.Helper()
	b.eval(`(() => { const e = document.activeElement; return e.getAttribute("aria-label") ?? (e.labels?.[0]?.textContent || e.textContent.trim()); })()`, &name)
	return name
}

// tabTo presses Tab until the focus is on something whose name begins so.
func (b *browser) tabTo(name string) {
	b.t.Helper()
	var seen []string
	for range 80 {
		b.keys("Tab")
		if is := b.focused(); strings.HasPrefix(is, name) {
			return
		} else {
			seen = append(seen, is)
		}
	}
	b.t.Fatalf("Tab does not lead to %q, but to %q", name, seen)
}

// photograph keeps a picture of the page in $COVEY_SCREENSHOTS, where that is set.
func (b *browser) photograph(name string) {
	b.t.Helper()
	dir := os.Getenv("COVEY_SCREENSHOTS")
	if dir == "" {
		return
	}
	b.eval(`document.querySelector("#toast").classList.remove("on")`, nil)
	b.until(`getComputedStyle(document.querySelector("#toast")).opacity === "0"`)
	var shot struct{ Data string }
	b.must("Page.captureScreenshot", map[string]any{"format": "png"}, &shot)
	png, err := base64.StdEncoding.DecodeString(shot.Data)
	if err != nil {
		b.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, name), png, 0o644); err != nil {
		b.t.Fatal(err)
	}
}
