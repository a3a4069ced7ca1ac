package local

import (
	"fmt"
	"math"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"testing"
)

var (
	desktop = screen{width: 1280, height: 860}
	phone   = screen{width: 360, height: 740, phone: true, dark: true}
)

// TestPage uses the page in a real browser as people do.
func TestPage(t *testing.T) {
	p := chromium(t)
	for _, way := range []struct {
		name string
		try  func(*testing.T, *program)
	}{{"mouse", byMouse}, {"finger", byFinger}, {"keyboard", byKeyboard}, {"readable", readable}, {"background", inBackground}, {"restart", overARestart}, {"prefix", behindAPrefix}, {"photographs", photographs}} {
		t.Run(way.name, func(t *testing.T) { way.try(t, p) })
	}
}

// visit opens the page of a house. What the browser complains about fails the test:
// errors, and what the content policy refuses.
func visit(t *testing.T, p *program, cfg Config, s screen) (*browser, *house) {
	t.Helper()
	h := newHouse()
	h.film(t)
	cfg.Board = h
	b := p.open(t, "http://"+serve(t, cfg).Addr()+"/", s)
	t.Cleanup(func() {
		for _, f := range b.complaints() {
			t.Errorf("the browser complains: %s", f)
		}
	})
	return b, h
}

func near(a, b [2]float64) bool { return math.Hypot(a[0]-b[0], a[1]-b[1]) < 0.01 }

// wantZone fails where a shape is not what was drawn.
func wantZone(t *testing.T, got []Zone, id string, points ...[2]float64) {
	t.Helper()
	if len(got) != 1 || got[0].ID != id || len(got[0].Points) != len(points) {
		t.Fatalf("got %+v, want %s with %v", got, id, points)
	}
	for i, p := range points {
		if !near(got[0].Points[i], p) {
			t.Errorf("point %d of %s is %v, want %v", i, id, got[0].Points[i], p)
		}
	}
}

func saved(h *house) bool { return h.regions["door"].Origin == OriginHome }

const live = `!document.querySelector("#picture").hidden && document.querySelectorAll("#boxes g").length === 3`

func byMouse(t *testing.T, p *program) {
	b, h := visit(t, p, Config{}, desktop)
	b.until(live)
	b.click(b.on("#add-zone", .5, .5))
	for _, at := range [][2]float64{{.1, .2}, {.5, .2}, {.5, .9}, {.1, .9}, {.1, .2}} { // the first again: closes
		b.click(b.on("#drawing", at[0], at[1]))
	}
	b.until(`document.activeElement.value === "zone-1"`)
	b.keys("t", "a", "b", "l", "e")
	b.drag(b.on(`[data-key="point/0/2"]`, .5, .5), b.on("#drawing", .6, .8))
	b.click(b.on("#add-mask", .5, .5))
	for _, at := range [][2]float64{{.7, .1}, {.95, .1}, {.95, .4}} {
		b.click(b.on("#drawing", at[0], at[1]))
	}
	b.click(b.on("#close-shape", .5, .5))
	b.click(b.on("#save", .5, .5))
	h.await(t, "zones are saved", saved)
	wantZone(t, h.regions["door"].Zones, "table", [2]float64{.1, .2}, [2]float64{.5, .2}, [2]float64{.6, .8}, [2]float64{.1, .9})
	wantZone(t, h.regions["door"].Masks, "mask-1", [2]float64{.7, .1}, [2]float64{.95, .1}, [2]float64{.95, .4})
	b.until(`document.querySelector("#save").disabled`)

	// The slider has its effect while it moves: the picture shows what is left.
	b.drag(b.on("#set-threshold", .5, .5), b.on("#set-threshold", .8, .5))
	h.await(t, "the threshold is set", func(h *house) bool { v, ok := h.values["door"]["threshold"].(float64); return ok && v > 0.7 })
	b.until(`document.querySelectorAll("#boxes g").length === 2 && document.querySelector(".setting output").textContent > "0.7"`)
	b.until(`document.querySelector(".setting:nth-child(2) .reset").checkVisibility()`)
	b.click(b.on(".setting:nth-child(2) .reset", .5, .5))
	h.await(t, "the threshold is the fleet's again", func(h *house) bool { return len(h.values["door"]) == 0 })
	b.until(live)

	b.click(b.on("#examine", .5, .5))
	b.until(`document.querySelector("#checks li .bad").parentElement.textContent.includes("blue USB 3 socket")`)
	b.until(`document.querySelector("#tried .use").textContent.includes("xnnpack") && document.querySelector("#tried").textContent.includes("no Coral is plugged in")`)
	b.until(`document.querySelector("#events").textContent.includes('<b onclick="x">laptop</b>') && [...document.querySelectorAll("#events img")].every((i) => i.naturalWidth > 0)`)
}

func byFinger(t *testing.T, p *program) {
	b, h := visit(t, p, Config{}, phone)
	b.until(live)
	tap := func(selector string, x, y float64) { b.finger(b.on(selector, x, y)) }
	tap("#add-zone", .5, .5)
	b.until(`document.querySelector("#drawing").classList.contains("drawing")`)
	for _, at := range [][2]float64{{.1, .2}, {.5, .2}, {.5, .9}, {.1, .9}, {.12, .22}} { // near the first: closes
		tap("#drawing", at[0], at[1])
	}
	b.until(`document.querySelectorAll(".grip").length === 4`)
	b.finger(b.on(`[data-key="point/0/2"]`, .5, .5), b.on("#drawing", .55, .85), b.on("#drawing", .6, .8))
	tap(`[data-key="half/0/3"]`, .5, .5) // a corner more, then one back
	b.until(`document.querySelectorAll(".grip").length === 5`)
	tap("#undo", .5, .5)
	tap("#save", .5, .5)
	h.await(t, "the zone is saved", saved)
	wantZone(t, h.regions["door"].Zones, "zone-1", [2]float64{.1, .2}, [2]float64{.5, .2}, [2]float64{.6, .8}, [2]float64{.1, .9})
	b.until(`document.querySelector("#save").disabled && document.querySelector("#discard").hidden`)

	tap("#set-enabled", .5, .5)
	h.await(t, "the pipeline is off", func(h *house) bool { return h.values["door"]["enabled"] == false })
	b.until(`document.querySelectorAll("#boxes g").length === 0`)
	// A drag is the last of all: what is tapped while its swing lasts, stops it and no more.
	b.finger(b.on("#set-threshold", .5, .5), b.on("#set-threshold", .6, .5), b.on("#set-threshold", .8, .5))
	h.await(t, "the threshold is set", func(h *house) bool { v, ok := h.values["door"]["threshold"].(float64); return ok && v > 0.7 })
	b.until(`document.querySelector("#set-threshold-from").textContent === "Set at home"`)

	// Nothing hangs over the edge, on the smallest phone either.
	b.must("Emulation.setDeviceMetricsOverride", map[string]any{"width": 320, "height": 568, "deviceScaleFactor": 1, "mobile": true}, nil)
	var over []string
	b.eval(`(() => { return [...document.querySelectorAll("body *:not(svg *, .said, .skip, table, table *, .grip)")].filter((e) => e.getBoundingClientRect().right > 321).map((e) => e.outerHTML.slice(0, 90)); })()`, &over)
	if len(over) > 0 {
		t.Errorf("too wide for 320 px: %q", over)
	}
}

// byKeyboard goes all the way without a mouse, from the password on.
func byKeyboard(t *testing.T, p *program) {
	b, h := visit(t, p, Config{Password: password}, desktop)
	b.until(`document.activeElement.id === "password"`)
	for _, r := range "wrong one" {
		b.keys(string(r))
	}
	b.keys("Enter")
	b.until(`document.querySelector("#login-error").textContent.includes("This is not the password")`)
	b.forgive()                  // the console counts a 401 among them
	for _, r := range password { // it is selected: typing replaces it
		b.keys(string(r))
	}
	b.keys("Enter")
	b.until(live)
	b.tabTo("Draw a zone")
	b.keys("Enter")
	b.keys("ArrowLeft", "Shift+ArrowUp", " ", "Shift+ArrowRight", "Shift+ArrowRight", " ", "Shift+ArrowDown", "Shift+ArrowDown", " ", "Shift+ArrowLeft", " ", "Backspace", "Enter")
	b.until(`document.activeElement.value === "zone-1"`)
	b.keys("d", "o", "o", "r")
	b.eval(`document.querySelector("#stage").scrollIntoView()`, nil)
	b.eval(`document.querySelector(".skip").focus()`, nil)
	b.tabTo("Zone door, 3 corners")
	b.keys("Tab")
	if name := b.focused(); name != "Corner 1 of 3 of Zone door: 50 % from the left, 45 % from the top" {
		t.Errorf("a corner is called %q", name)
	}
	b.keys("Shift+ArrowLeft", "ArrowLeft", "Insert")
	b.until(`document.querySelectorAll(".grip").length === 4 && document.activeElement.dataset.key === "point/0/1"`)
	for i, key := range []string{"Delete", "Ctrl+z", "Delete"} {
		b.eval(`document.querySelector('[data-key="point/0/1"]').focus()`, nil)
		b.keys(key)
		b.until(fmt.Sprintf(`document.querySelectorAll(".grip").length === %d`, 3+i%2))
	}
	b.tabTo("Save")
	b.keys("Enter")
	h.await(t, "the zone is saved", saved)
	wantZone(t, h.regions["door"].Zones, "door", [2]float64{.44, .45}, [2]float64{.595, .45}, [2]float64{.595, .55})
	b.tabTo("How sure it must be")
	b.keys("End")
	h.await(t, "the threshold is set", func(h *house) bool { return h.values["door"]["threshold"] == 0.95 })
	b.until(`document.activeElement.id === "set-threshold" && document.querySelectorAll("#boxes g").length === 0`)

	b.eval(`document.querySelector(".skip").focus()`, nil)
	b.tabTo("yard")
	b.keys("Enter") // what the file pins is shown, and why
	b.until(`document.querySelector("#hint").textContent.includes("agent.yaml") && document.querySelector("#add-zone").disabled && document.querySelector("#set-threshold").disabled`)
	b.until(`document.querySelector("#numbers .notice").textContent.includes("E_CRASH")`)
	b.eval(`document.querySelector(".skip").focus()`, nil)
	b.tabTo("bedroom")
	b.keys("Enter") // zones can be drawn without a picture
	b.until(`document.querySelector("#privacy").textContent === "Pictures stay on this board: class numbers." && document.querySelector("#stage").classList.contains("blank") && document.querySelectorAll("#boxes g").length === 3 && !document.querySelector("#add-zone").disabled`)

	h.await(t, "one preview is open", func(h *house) bool { return h.watched == 1 })
	b.eval(`document.querySelector("#leave").focus()`, nil)
	b.keys("Enter")
	b.until(`document.activeElement.id === "password"`)
	h.await(t, "nobody watches", func(h *house) bool { return h.watched == 0 })
}

// readable: all that can be used has a name, and all text its contrast.
func readable(t *testing.T, p *program) {
	for _, s := range []screen{desktop, phone} {
		b, h := visit(t, p, Config{}, s)
		h.regions["door"] = Regions{Zones: []Zone{{"door", [][2]float64{{0.1, 0.1}, {0.9, 0.1}, {0.5, 0.9}}}}, Origin: OriginHome}
		b.until(live)
		b.click(b.on("#examine", .5, .5))
		b.until(`document.querySelector("#checks li")`)
		var tree struct {
			Nodes []struct {
				Ignored    bool
				Role, Name struct{ Value any }
			}
		}
		b.must("Accessibility.getFullAXTree", struct{}{}, &tree)
		roles := map[any]int{}
		for _, n := range tree.Nodes {
			switch n.Role.Value {
			case "button", "textbox", "slider", "switch", "checkbox", "image", "region", "link", "heading":
				roles[n.Role.Value]++
				if !n.Ignored && (n.Name.Value == nil || n.Name.Value == "") {
					t.Errorf("a %v has no name", n.Role.Value)
				}
			}
		}
		if roles["button"] < 8 || roles["slider"] != 1 || roles["switch"] != 1 || roles["heading"] < 6 {
			t.Errorf("found %v", roles)
		}
		var pale []string
		b.eval(contrast, &pale)
		if len(pale) > 0 {
			t.Errorf("too little contrast: %q", pale)
		}
	}
}

// contrast is a list of the texts that have less than 4.5 : 1 (WCAG AA), but for those on
// the picture, which have an outline, and what is switched off.
const contrast = `(() => {
	const rgb = (c) => (c.match(/[\d.]+/g) ?? []).map(Number);
	const light = (c) => c.slice(0, 3).map((v) => v / 255).map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4).reduce((s, v, i) => s + v * [0.2126, 0.7152, 0.0722][i], 0);
	const behind = (e) => { for (; e; e = e.parentElement) { const c = rgb(getComputedStyle(e).backgroundColor); if (c.length === 3 || c[3] === 1) return c; } return [255, 255, 255]; };
	return [...document.querySelectorAll("body *")].filter((e) => e.checkVisibility() && !e.closest("#stage, :disabled, #toast") && [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim()))
		.map((e) => { const [a, b] = [light(rgb(getComputedStyle(e).color)), light(behind(e))].sort((x, y) => y - x); return [(a + 0.05) / (b + 0.05), e.textContent]; })
		.filter(([ratio]) => ratio < 4.5).map(([ratio, text]) => ratio.toFixed(1) + " " + text);
})()`

// inBackground: a page in the background lets the board rest.
func inBackground(t *testing.T, p *program) {
	b, h := visit(t, p, Config{}, desktop)
	b.until(live)
	b.eval(`Object.defineProperty(document, "hidden", {value: true, configurable: true}); document.dispatchEvent(new Event("visibilitychange"))`, nil)
	h.await(t, "nobody watches", func(h *house) bool { return h.watched == 0 })
	b.eval(`delete document.hidden; document.dispatchEvent(new Event("visibilitychange"))`, nil)
	h.await(t, "somebody watches", func(h *house) bool { return h.watched == 1 })
	b.until(live)
}

// overARestart: a page that stays open finds the board again, and asks for the password
// once more.
func overARestart(t *testing.T, p *program) {
	h := newHouse()
	h.film(t)
	s, stop := start(t, Config{Board: h})
	b := p.open(t, "http://"+s.Addr()+"/", desktop)
	b.until(live)
	stop()
	b.until(`document.querySelector("#summary").textContent.includes("does not answer") && document.querySelector("#stage").classList.contains("blank")`)
	serve(t, Config{Board: h, Listen: s.Addr(), Password: password})
	b.until(`document.querySelector("#board").hidden && document.activeElement.id === "password"`)
	b.eval(`(() => { document.querySelector("#password").value = "`+password+`"; document.querySelector("#login").requestSubmit(); })()`, nil)
	b.until(live)
}

// behindAPrefix: Home Assistant shows the page below a path of its own, under its own
// name, to people whom it has let in itself.
func behindAPrefix(t *testing.T, p *program) {
	h := newHouse()
	h.film(t)
	s := serve(t, Config{Board: h, Password: password, Ingress: netip.MustParseAddr("127.0.0.1")})
	const prefix = "/api/hassio_ingress/abc"
	front := httptest.NewServer(http.StripPrefix(prefix, &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(&url.URL{Scheme: "http", Host: s.Addr()})
		r.SetXForwarded()
		r.Out.Header.Set("X-Ingress-Path", prefix)
	}}))
	t.Cleanup(front.Close)
	b := p.open(t, front.URL+prefix+"/", desktop)
	b.until(live)
	b.click(b.on("#set-enabled", .5, .5))
	h.await(t, "the pipeline is off", func(h *house) bool { return h.values["door"]["enabled"] == false })
	b.until(`document.querySelectorAll("#boxes g").length === 0 && document.querySelector("#leave").hidden`)
	if c := b.complaints(); len(c) > 0 {
		t.Errorf("the browser complains: %s", c)
	}
}

// photographs makes the pictures of the documents, in $COVEY_SCREENSHOTS:
//
//	COVEY_SCREENSHOTS=/tmp go test -run TestPage/photographs ./agent/internal/local
//	pngquant --force --ext .png 64 /tmp/page-*.png && mv /tmp/page-*.png docs/images/
func photographs(t *testing.T, p *program) {
	if os.Getenv("COVEY_SCREENSHOTS") == "" {
		t.Skip("$COVEY_SCREENSHOTS does not say where to")
	}
	for _, shot := range []struct {
		name   string
		screen screen
	}{{"page-desktop.png", screen{width: 1280, height: 1180}}, {"page-phone.png", screen{width: 360, height: 1000, phone: true, dark: true}}} {
		b, h := visit(t, p, Config{Password: password}, shot.screen)
		h.regions["door"] = Regions{Origin: OriginHome,
			Zones: []Zone{{"desk", [][2]float64{{0.02, 0.86}, {0.42, 0.74}, {0.7, 0.78}, {0.83, 0.34}, {0.98, 0.4}, {0.98, 0.98}, {0.02, 0.98}}}},
			Masks: []Zone{{"lamp", [][2]float64{{0.72, 0.02}, {0.98, 0.02}, {0.98, 0.12}, {0.78, 0.09}}}}}
		h.events[2].Label = "laptop"
		b.until(`document.activeElement.id === "password"`)
		b.eval(`(() => { document.querySelector("#password").value = "`+password+`"; document.querySelector("#login").requestSubmit(); })()`, nil)
		b.until(live)
		b.click(b.on("#drawing", .9, .6))
		b.until(`document.querySelectorAll(".grip").length === 7`)
		b.until(`document.querySelectorAll("#events img").length === 2 && [...document.querySelectorAll("#events img")].every((i) => i.naturalWidth > 0)`)
		b.eval(`(document.activeElement.blur(), scrollTo(0, 0))`, nil)
		b.photograph(shot.name)
		if shot.screen.phone {
			b.eval(`scrollTo(0, 1000)`, nil)
		} else {
			b.eval(`scrollTo(0, 9999)`, nil)
		}
		b.photograph(strings.Replace(shot.name, ".png", "-below.png", 1))
	}
}
