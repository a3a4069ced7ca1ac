package local

import (
	"math"
	"testing"
)

var (
	desktop = screen{width: 1280, height: 860}
	phone   = screen{width: 360, height: 740, phone: true, dark: true}
)

// visit opens the page of a house in a real browser. What the browser complains about
// fails the test: errors, and what the content policy refuses.
func visit(t *testing.T, cfg Config, s screen) (*browser, *house) {
	t.Helper()
	b, h := chromium(t), newHouse()
	h.film(t)
	cfg.Board = h
	b.open("http://"+serve(t, cfg).Addr()+"/", s)
	t.Cleanup(func() {
		for _, f := range b.complaints() {
			t.Errorf("the browser complains: %s", f)
		}
	})
	return b, h
}

func close2(a, b [2]float64) bool { return math.Hypot(a[0]-b[0], a[1]-b[1]) < 0.01 }

// wantZone fails where a shape is not what was drawn.
func wantZone(t *testing.T, got []Zone, id string, points ...[2]float64) {
	t.Helper()
	if len(got) != 1 || got[0].ID != id || len(got[0].Points) != len(points) {
		t.Fatalf("got %+v, want %s with %v", got, id, points)
	}
	for i, p := range points {
		if !close2(got[0].Points[i], p) {
			t.Errorf("point %d of %s is %v, want %v", i, id, got[0].Points[i], p)
		}
	}
}

func saved(h *house) bool { return h.regions["door"].Origin == OriginHome }

const live = `!document.querySelector("#picture").hidden && document.querySelectorAll("#boxes g").length === 3`

func TestMouse(t *testing.T) {
	b, h := visit(t, Config{}, desktop)
	b.until(live)
	b.click(b.on("#add-zone", .5, .5))
	for _, p := range [][2]float64{{.1, .2}, {.5, .2}, {.5, .9}, {.1, .9}, {.1, .2}} { // the first again: closes
		b.click(b.on("#drawing", p[0], p[1]))
	}
	b.until(`document.activeElement.value === "zone-1"`)
	b.keys("t", "a", "b", "l", "e")
	b.drag(b.on(`[data-key="point/0/2"]`, .5, .5), b.on("#drawing", .6, .8))
	b.click(b.on("#add-mask", .5, .5))
	for _, p := range [][2]float64{{.7, .1}, {.95, .1}, {.95, .4}} {
		b.click(b.on("#drawing", p[0], p[1]))
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
	b.until(`document.querySelector(".reset")`)
	b.click(b.on(".reset", .5, .5))
	h.await(t, "the threshold is the fleet's again", func(h *house) bool { return len(h.values["door"]) == 0 })
	b.until(live)

	b.click(b.on("#examine", .5, .5))
	b.until(`document.querySelector("#checks li .bad").parentElement.textContent.includes("blue USB 3 socket")`)
	b.until(`document.querySelector("#tried .use").textContent.includes("xnnpack") && document.querySelector("#tried").textContent.includes("no Coral is plugged in")`)
	b.until(`document.querySelector("#events").textContent.includes('<b onclick="x">laptop</b>') && [...document.querySelectorAll("#events img")].every((i) => i.naturalWidth > 0)`)
	b.eval(`scrollTo(0, 0)`, nil)
	b.until(live)
	b.photograph("page-desktop.png")
	b.eval(`scrollTo(0, 9999)`, nil)
	b.photograph("page-desktop-below.png")
}
