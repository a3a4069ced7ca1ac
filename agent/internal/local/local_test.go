package local

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"image/jpeg"
	"io"
	"maps"
	"mime/multipart"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	"github.com/rs/zerolog"

	"github.com/covey-edge/covey/hal"
)

const password = "correct horse"

// serve runs a Server until the test ends.
func serve(t *testing.T, cfg Config) *Server {
	t.Helper()
	s, stop := start(t, cfg)
	t.Cleanup(stop)
	return s
}

// start runs a Server on a free port of this machine until stop has ended it.
func start(t *testing.T, cfg Config) (s *Server, stop func()) {
	t.Helper()
	if cfg.Listen == "" {
		cfg.Listen = "127.0.0.1:0"
	}
	cfg.Log = zerolog.New(zerolog.NewTestWriter(t))
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s, run(t, s)
}

func run(t *testing.T, s *Server) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	return func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

// A guest makes requests as it likes.
type guest struct {
	t      *testing.T
	s      *Server
	header http.Header
}

func (g guest) with(pairs ...string) guest {
	g.header = g.header.Clone()
	if g.header == nil {
		g.header = http.Header{}
	}
	for i := 0; i < len(pairs); i += 2 {
		g.header.Set(pairs[i], pairs[i+1])
	}
	return g
}

// do sends a request; the header Host is the request's own.
func (g guest) do(method, path, body string) (*http.Response, string) {
	g.t.Helper()
	r, err := http.NewRequestWithContext(g.t.Context(), method, "http://"+g.s.Addr()+path, strings.NewReader(body))
	if err != nil {
		g.t.Fatal(err)
	}
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	maps.Copy(r.Header, g.header)
	if host := g.header.Get("Host"); host != "" {
		r.Host = host
	}
	resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(r)
	if err != nil {
		g.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		g.t.Fatal(err)
	}
	return resp, string(b)
}

func (g guest) want(status int, method, path, body string) string {
	g.t.Helper()
	resp, got := g.do(method, path, body)
	if resp.StatusCode != status {
		g.t.Errorf("%s %s: status %d, want %d: %s", method, path, resp.StatusCode, status, got)
	}
	if status >= 400 && strings.HasPrefix(path, "/api/") {
		var p Problem
		if err := json.Unmarshal([]byte(got), &p); err != nil || resp.Header.Get("Content-Type") != "application/problem+json" || p.Status != status || p.Code == "" || p.Detail == "" {
			g.t.Errorf("%s %s: no problem in %s (%v)", method, path, got, err)
		}
	}
	return got
}

func TestDoorToTheNetwork(t *testing.T) {
	for _, tc := range []struct {
		name string
		cfg  Config
		want string // of the error; "": none
	}{
		{"default", Config{}, ""},
		{"name of the board itself", Config{Listen: "localhost:0"}, ""},
		{"all addresses", Config{Listen: "0.0.0.0:0"}, "password_file: page.password"},
		{"all addresses, short", Config{Listen: ":0"}, "password_file: page.password"},
		{"IPv6", Config{Listen: "[::]:0"}, "password_file: page.password"},
		{"a name", Config{Listen: "kitchen:0"}, "password_file: page.password"},
		{"with a password", Config{Listen: "0.0.0.0:0", Password: password}, ""},
		{"with a token", Config{Listen: "0.0.0.0:0", Token: password}, ""},
		{"of an add-on", Config{Listen: "0.0.0.0:0", Ingress: netip.MustParseAddr("172.30.32.2")}, ""},
		{"short password", Config{Listen: "0.0.0.0:0", Password: "secret"}, "8 or more"},
		{"short token", Config{Token: "1234567"}, "8 or more"},
		{"no port", Config{Listen: "127.0.0.1"}, "no host:port"},
	} {
		if tc.cfg.Listen == "" {
			tc.cfg.Listen = "127.0.0.1:0"
		}
		tc.cfg.Board = newHouse()
		s, err := New(tc.cfg)
		if s != nil {
			s.listener.Close()
		}
		if (err == nil) != (tc.want == "") || err != nil && (!strings.Contains(err.Error(), tc.want) || hal.CodeOf(err) != hal.CodeConfig) {
			t.Errorf("%s: error %v, want %q", tc.name, err, tc.want)
		}
	}
	s := serve(t, Config{Board: newHouse()})
	if _, err := New(Config{Listen: s.Addr(), Board: newHouse()}); hal.CodeOf(err) != hal.CodeConfig || !strings.Contains(err.Error(), "listen:") {
		t.Errorf("an address in use: %v", err)
	}
}

// calls are all of the API, with something that they take.
var calls = []struct{ method, path, body string }{
	{"GET", "/api/v1/status", ""},
	{"GET", "/api/v1/events", ""},
	{"GET", "/api/v1/events/board-abc-2/picture", ""},
	{"GET", "/api/v1/doctor", ""},
	{"GET", "/api/v1/pipelines/door/preview", ""},
	{"GET", "/api/v1/pipelines/door/preview.mjpeg", ""},
	{"GET", "/api/v1/pipelines/door/regions", ""},
	{"PUT", "/api/v1/pipelines/door/regions", `{"zones":[],"masks":[]}`},
	{"GET", "/api/v1/pipelines/door/settings", ""},
	{"PUT", "/api/v1/pipelines/door/settings/threshold", `{"value":0.9}`},
	{"GET", "/api/v1/nonsense", ""},
	{"GET", "/api/", ""},
	{"DELETE", "/api/v1/status", ""},
}

func TestStrangersAreKeptOut(t *testing.T) {
	h := newHouse()
	s := serve(t, Config{Board: h, Password: password, Token: "a token of programs"})
	g := guest{t: t, s: s}
	for _, c := range calls {
		g.want(401, c.method, c.path, c.body)
		g.with("Cookie", "covey=guess").want(401, c.method, c.path, c.body)
	}
	g.want(200, "GET", "/healthz", "")
	g.want(200, "GET", "/readyz", "")
	g.want(200, "GET", "/metrics", "") // from the board itself
	g.with("X-Forwarded-For", "192.168.1.7").want(401, "GET", "/metrics", "")
	g.with("Authorization", "Bearer "+password).want(200, "GET", "/api/v1/status", "")
	g.with("Authorization", "bearer a token of programs").want(200, "GET", "/api/v1/status", "")
	g.with("Authorization", "Basic "+password).want(401, "GET", "/api/v1/status", "")
	guest{t: t, s: serve(t, Config{Board: h, Token: "a token of programs"})}.want(401, "GET", "/api/v1/status", "") // a token alone
	if h.sets > 0 {
		t.Error("a stranger has set something")
	}
	resp, _ := g.do("GET", "/", "")
	csp := resp.Header.Get("Content-Security-Policy")
	if resp.StatusCode != 200 || !strings.HasPrefix(csp, "default-src 'self';") || strings.Contains(csp, "unsafe") {
		t.Errorf("page: status %d, policy %q", resp.StatusCode, csp)
	}
}

func TestLogin(t *testing.T) {
	s := serve(t, Config{Board: newHouse(), Password: password, Hosts: []string{"kitchen"}})
	g := guest{t: t, s: s}
	if got := g.want(200, "GET", "/api/v1/session", ""); got != `{"password":true,"in":false,"leave":false}`+"\n" {
		t.Errorf("session of a stranger: %s", got)
	}
	origin := "http://" + s.Addr()
	resp, body := g.with("Origin", origin).do("POST", "/api/v1/session", `{"password":"`+password+`"}`)
	if resp.StatusCode != 200 || len(resp.Cookies()) != 1 {
		t.Fatalf("login: %d %s", resp.StatusCode, body)
	}
	c := resp.Cookies()[0]
	if !c.HttpOnly || c.SameSite != http.SameSiteStrictMode || c.Domain != "" || len(c.Value) < 26 {
		t.Errorf("cookie %+v", c)
	}
	in := g.with("Cookie", c.Name+"="+c.Value)
	in.want(200, "GET", "/api/v1/status", "")
	in.with("Origin", origin).want(200, "PUT", "/api/v1/pipelines/door/settings/threshold", `{"value":0.9}`)
	in.want(403, "PUT", "/api/v1/pipelines/door/settings/threshold", `{"value":0.8}`) // a browser says from where
	in.with("Origin", origin).want(200, "DELETE", "/api/v1/session", "")
	in.want(401, "GET", "/api/v1/status", "")
}

func TestGuessesAreFew(t *testing.T) {
	s := serve(t, Config{Board: newHouse(), Password: password})
	g := guest{t: t, s: s}
	for range attemptsEach {
		g.want(401, "POST", "/api/v1/session", `{"password":"wrong"}`)
	}
	g.want(429, "POST", "/api/v1/session", `{"password":"`+password+`"}`)
	g.with("Authorization", "Bearer "+password).want(429, "GET", "/api/v1/status", "")
}

func TestAttemptsAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var a attempts
		one, no, yes := netip.MustParseAddr("192.168.1.7"), func() bool { return false }, func() bool { return true }
		for range attemptsEach {
			if right, ok := a.try(one, yes); !right || !ok {
				t.Fatal("who knows the password is kept out")
			}
			a.try(one, no)
		}
		if _, ok := a.try(one, yes); ok {
			t.Error("no end of guesses")
		}
		if right, ok := a.try(netip.MustParseAddr("192.168.1.8"), yes); !right || !ok {
			t.Error("one guesses, another is kept out")
		}
		time.Sleep(time.Minute)
		if right, ok := a.try(one, yes); !right || !ok {
			t.Error("a minute later it is still kept out")
		}
		// From many addresses at once: some get through, and not for ever.
		through := 0
		for i := range 1000 {
			if _, ok := a.try(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), no); ok {
				through++
			}
		}
		if through != attemptsAll || len(a.each) > maxAddresses {
			t.Errorf("%d guesses of many addresses, %d kept in mind", through, len(a.each))
		}
	})
}

func TestSessionsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s sessions
		used, idle := s.begin(), s.begin()
		for range int(sessionLife/sessionIdle) * 2 {
			if !s.valid(used) {
				t.Fatal("a session that is used has ended")
			}
			time.Sleep(sessionIdle / 2)
		}
		if s.valid(idle) {
			t.Error("a session that nobody uses goes on")
		}
		time.Sleep(time.Second)
		if s.valid(used) {
			t.Error("a session lasts for ever")
		}
		first := s.begin()
		time.Sleep(time.Second)
		for range maxSessions {
			s.begin()
		}
		if len(s.live) != maxSessions || s.valid(first) {
			t.Errorf("%d sessions live, the first among them: %v", len(s.live), s.valid(first))
		}
	})
}

func TestOtherPagesAreRefused(t *testing.T) {
	h := newHouse()
	s := serve(t, Config{Board: h, Hosts: []string{"Kitchen", "board.example.org", ""}})
	g := guest{t: t, s: s}
	_, port, _ := net.SplitHostPort(s.Addr())
	for host, status := range map[string]int{
		"localhost:" + port: 200, "kitchen": 200, "KITCHEN.local.:8099": 200, "board.example.org": 200, "192.168.1.20:8099": 200, "[fe80::1]:8099": 200,
		"evil.example": 421, "evil.example:" + port: 421, "kitchen.evil.example": 421, "127.0.0.1.evil.example": 421, "board.example.org.local": 421, ".": 421, ".local": 421,
	} {
		g.with("Host", host).want(status, "GET", "/api/v1/status", "")
		g.with("Host", host).want(status, "GET", "/", "")
		g.with("Host", host).want(status, "GET", "/metrics", "")
	}
	put := func(g guest, status int) {
		t.Helper()
		g.want(status, "PUT", "/api/v1/pipelines/door/settings/threshold", `{"value":0.9}`)
	}
	put(g, 200) // no page: a program on the board
	put(g.with("Origin", "http://"+s.Addr()), 200)
	put(g.with("Origin", "http://evil.example"), 403)
	put(g.with("Origin", "http://"+s.Addr()+".evil.example"), 403)
	put(g.with("Origin", "http://localhost:1"), 403)
	put(g.with("Origin", "null"), 403)
	put(g.with("Sec-Fetch-Site", "cross-site"), 403)
	put(g.with("Sec-Fetch-Site", "same-origin"), 200)
	g.with("Sec-Fetch-Site", "cross-site").want(403, "GET", "/api/v1/pipelines/door/preview.mjpeg", "") // a picture in another's page
	g.with("Sec-Fetch-Site", "cross-site").want(200, "GET", "/", "")                                    // a link that leads here
	put(g.with("Content-Type", "text/plain"), 415)                                                      // what a form of another page could send
	g.with("Origin", "http://evil.example").want(403, "POST", "/api/v1/session", `{"password":"x"}`)
}

func TestHomeAssistantBringsPeopleIn(t *testing.T) {
	s := serve(t, Config{Board: newHouse(), Listen: "127.0.0.1:0", Password: password, Ingress: netip.MustParseAddr("127.0.0.1")})
	g := guest{t: t, s: s}
	g.want(401, "GET", "/api/v1/status", "") // from there, but not brought
	in := g.with("X-Ingress-Path", "/api/hassio_ingress/abc", "Host", "homeassistant.example:8123", "X-Forwarded-Host", "ha.example", "X-Forwarded-For", "192.168.1.7")
	in.want(200, "GET", "/api/v1/status", "")
	in.with("Origin", "https://ha.example").want(200, "PUT", "/api/v1/pipelines/door/settings/enabled", `{"value":false}`)
	in.with("Origin", "https://evil.example").want(403, "PUT", "/api/v1/pipelines/door/settings/enabled", `{"value":true}`)
	other := serve(t, Config{Board: newHouse(), Password: password, Ingress: netip.MustParseAddr("172.30.32.2")})
	guest{t: t, s: other}.with("X-Ingress-Path", "/api/hassio_ingress/abc").want(401, "GET", "/api/v1/status", "")
}

func TestReadiness(t *testing.T) {
	h := newHouse()
	s := serve(t, Config{Board: h})
	g := guest{t: t, s: s}
	if got := g.want(200, "GET", "/readyz", ""); got != "ready\n" {
		t.Errorf("readyz: %q", got)
	}
	h.notReady = "model"
	if got := g.want(503, "GET", "/readyz", ""); got != "model\n" {
		t.Errorf("readyz: %q", got)
	}
	if got := g.want(200, "GET", "/healthz", ""); got != "ok\n" {
		t.Errorf("healthz: %q", got)
	}
}

func TestMetrics(t *testing.T) {
	s := serve(t, Config{Board: newHouse()})
	got := guest{t: t, s: s}.want(200, "GET", "/metrics", "")
	problems, err := promlint.New(strings.NewReader(got)).Lint()
	if err != nil || len(problems) > 0 {
		t.Errorf("%v %v in\n%s", problems, err, got)
	}
	for _, want := range []string{
		`covey_build_info{version="0.4.0",board="Raspberry Pi 5",device="kitchen"} 1`,
		`covey_link_up{link="fleet"} 0`,
		`covey_dropped_total{pipeline="door",reason="still"} 6900`,
		`covey_pipeline_state{pipeline="yard",state="degraded"} 1`,
		`covey_pipeline_fault{pipeline="yard",code="E_CRASH"} 1`,
		`covey_model_info{pipeline="door",model="coco-ssd-mobilenet",version="1.2.0",accelerator="xnnpack"} 1`,
		`covey_runner_pss_bytes{pipeline="door"} 4.2991616e+07`,
		`covey_stage_seconds_bucket{pipeline="door",stage="run",le="0.001"} 5`,
		`covey_stage_seconds_bucket{pipeline="door",stage="run",le="0.025"} 5`,
		`covey_stage_seconds_bucket{pipeline="door",stage="run",le="0.05"} 105`,
		`covey_stage_seconds_bucket{pipeline="door",stage="run",le="10"} 105`,
		`covey_stage_seconds_bucket{pipeline="door",stage="run",le="+Inf"} 106`,
		`covey_stage_seconds_sum{pipeline="door",stage="run"} 3`,
	} {
		if !strings.Contains(got, want+"\n") {
			t.Errorf("no %s in\n%s", want, got)
		}
	}
	var e exposition
	e.sample("x", 1, "label", "a\"b\\c\nd\xff")
	if want := `x{label="a\"b\\c\nd` + "\uFFFD" + `"} 1` + "\n"; e.String() != want {
		t.Errorf("got %q, want %q", e.String(), want)
	}
}

func TestEvents(t *testing.T) {
	h := newHouse()
	h.film(t)
	s := serve(t, Config{Board: h})
	g := guest{t: t, s: s}
	var out struct{ Events []Event }
	if err := json.Unmarshal([]byte(g.want(200, "GET", "/api/v1/events?after=1", "")), &out); err != nil || len(out.Events) != 2 || out.Events[0].Seq != 2 {
		t.Errorf("%v %+v", err, out)
	}
	if got := g.want(200, "GET", "/api/v1/events?after=3", ""); got != `{"events":[]}`+"\n" {
		t.Errorf("no events are %s", got)
	}
	g.want(400, "GET", "/api/v1/events?after=-1", "")
	resp, picture := g.do("GET", "/api/v1/events/board-abc-2/picture", "")
	if _, err := jpeg.Decode(strings.NewReader(picture)); err != nil || resp.Header.Get("Content-Type") != "image/jpeg" {
		t.Errorf("picture: %v, %s", err, resp.Header.Get("Content-Type"))
	}
	g.want(403, "GET", "/api/v1/events/board-abc-1/picture", "")
	g.want(404, "GET", "/api/v1/events/..%2f..%2fetc%2fpasswd/picture", "")
}

func TestRegions(t *testing.T) {
	h := newHouse()
	s := serve(t, Config{Board: h})
	g := guest{t: t, s: s}
	const path = "/api/v1/pipelines/door/regions"
	if got := g.want(200, "GET", path, ""); got != `{"zones":[],"masks":[],"origin":"default"}`+"\n" {
		t.Errorf("none are %s", got)
	}
	square := `[[0,0],[1,0],[1,1],[0,1]]`
	many := func(n int, f func(i int) string) string {
		var list []string
		for i := range n {
			list = append(list, f(i))
		}
		return strings.Join(list, ",")
	}
	zone := func(i int) string { return fmt.Sprintf(`{"id":"z%d","points":%s}`, i, square) }
	point := func(i int) string { return fmt.Sprintf(`[%v,%v]`, float64(i)/100, float64(i%7)/10) }
	for body, status := range map[string]int{
		`{"zones":[{"id":"door","points":` + square + `}],"masks":[{"id":"door","points":` + square + `}]}`: 200,
		`{"zones":[` + many(MaxZones, zone) + `],"masks":[]}`:                                               200,
		`{"zones":[` + many(MaxZones+1, zone) + `],"masks":[]}`:                                             422,
		`{"masks":[` + many(MaxZones+1, zone) + `],"zones":[]}`:                                             422,
		`{"zones":[{"id":"a","points":[` + many(MaxPoints, point) + `]}],"masks":[]}`:                       200,
		`{"zones":[{"id":"a","points":[` + many(MaxPoints+1, point) + `]}],"masks":[]}`:                     422,
		`{"zones":[{"id":"a","points":[[0,0],[1,1]]}],"masks":[]}`:                                          422,
		`{"zones":[{"id":"a","points":[[0,0],[0.5,0.5],[1,1]]}],"masks":[]}`:                                422, // a line
		`{"zones":[{"id":"a","points":[[0,0],[1,0],[1,1.01]]}],"masks":[]}`:                                 422,
		`{"zones":[{"id":"a","points":[[0,0],[1,0],[1,-0.01]]}],"masks":[]}`:                                422,
		`{"zones":[{"id":"A","points":` + square + `}],"masks":[]}`:                                         422,
		`{"zones":[{"id":"","points":` + square + `}],"masks":[]}`:                                          422,
		`{"zones":[{"id":"` + strings.Repeat("a", 33) + `","points":` + square + `}],"masks":[]}`:           422,
		`{"zones":[` + zone(1) + `,` + zone(1) + `],"masks":[]}`:                                            422,
		`{"zones":[]}`:                     422,
		`{"zones":[],"masks":[],"more":1}`: 400,
		`{"zones":[],"masks":[]}{}`:        400,
		`{"zones":"all","masks":[]}`:       400,
		`[]`:                               400,
		`{"zones":[],"masks":[]` + strings.Repeat(" ", maxBody) + `}`: 413,
	} {
		g.want(status, "PUT", path, body)
	}
	g.want(404, "PUT", "/api/v1/pipelines/nowhere/regions", `{"zones":[],"masks":[]}`)
	g.want(409, "PUT", "/api/v1/pipelines/yard/regions", `{"zones":[],"masks":[]}`)
	if len(h.regions["yard"].Zones) != 1 {
		t.Error("what the file pins was changed")
	}
}

func TestSettings(t *testing.T) {
	h := newHouse()
	s := serve(t, Config{Board: h})
	g := guest{t: t, s: s}
	for _, tc := range []struct {
		path, body string
		status     int
	}{
		{"door/settings/threshold", `{"value":0.8}`, 200},
		{"door/settings/enabled", `{"value":false}`, 200},
		{"door/settings/threshold", `{"value":0.96}`, 422},
		{"door/settings/threshold", `{"value":-1}`, 422},
		{"door/settings/threshold", `{"value":true}`, 422},
		{"door/settings/threshold", `{"value":"0.8"}`, 422},
		{"door/settings/enabled", `{"value":1}`, 422},
		{"door/settings/threshold", `{}`, 422},
		{"door/settings/threshold", `{"value":1e999}`, 400},
		{"door/settings/volume", `{"value":1}`, 404},
		{"nowhere/settings/threshold", `{"value":0.8}`, 404},
		{"yard/settings/threshold", `{"value":0.8}`, 409},
	} {
		g.want(tc.status, "PUT", "/api/v1/pipelines/"+tc.path, tc.body)
	}
	if h.sets != 2 || h.values["door"]["threshold"] != 0.8 || h.values["door"]["enabled"] != false {
		t.Errorf("%d sets: %v", h.sets, h.values)
	}
	if got := g.want(200, "PUT", "/api/v1/pipelines/door/settings/threshold", `{"value":null}`); !strings.Contains(got, `"value":0.5`) || !strings.Contains(got, `"origin":"fleet"`) {
		t.Errorf("taken back: %s", got)
	}
}

func TestPreview(t *testing.T) {
	h := newHouse()
	h.film(t)
	s := serve(t, Config{Board: h})
	open := func(path string) (*http.Response, context.CancelFunc) {
		ctx, cancel := context.WithCancel(t.Context())
		r, err := http.NewRequestWithContext(ctx, "GET", "http://"+s.Addr()+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { resp.Body.Close() })
		return resp, cancel
	}
	next := func(r io.Reader) (v View) {
		t.Helper()
		line, err := bufio.NewReader(r).ReadBytes('\n')
		if err != nil || json.Unmarshal(bytes.TrimPrefix(line, []byte("data: ")), &v) != nil {
			t.Fatalf("%v in %.60s", err, line)
		}
		return v
	}
	resp, leave := open("/api/v1/pipelines/door/preview")
	v := next(resp.Body)
	if _, err := jpeg.Decode(bytes.NewReader(v.JPEG)); err != nil || len(v.Items) != 3 {
		t.Errorf("%v, items %v", err, v.Items)
	}
	leave()
	h.await(t, "the board is told that nobody watches", func(h *house) bool { return h.watched == 0 })

	resp, leave = open("/api/v1/pipelines/bedroom/preview")
	if v := next(resp.Body); v.JPEG != nil || len(v.Items) == 0 {
		t.Errorf("a picture of %d bytes left a pipeline that shows none", len(v.JPEG))
	}
	leave()
	resp, leave = open("/api/v1/pipelines/door/preview.mjpeg")
	parts := multipart.NewReader(resp.Body, boundary)
	for range 2 {
		p, err := parts.NextPart()
		if err != nil || p.Header.Get("Content-Type") != "image/jpeg" {
			t.Fatalf("%v %v", err, p)
		}
		if _, err := jpeg.Decode(p); err != nil {
			t.Error(err)
		}
	}
	leave()
	g := guest{t: t, s: s}
	g.want(403, "GET", "/api/v1/pipelines/bedroom/preview.mjpeg", "")
	g.want(404, "GET", "/api/v1/pipelines/nowhere/preview", "")
	h.await(t, "nobody watches", func(h *house) bool { return h.watched == 0 })
	for range maxPreviews {
		resp, _ := open("/api/v1/pipelines/door/preview")
		next(resp.Body)
	}
	g.want(429, "GET", "/api/v1/pipelines/door/preview", "")
}

// TestLogoutEndsPreviews: who has logged out sees nothing more.
func TestLogoutEndsPreviews(t *testing.T) {
	h := newHouse()
	s := serve(t, Config{Board: h, Password: password})
	value := s.sessions.begin()
	r, _ := http.NewRequestWithContext(t.Context(), "GET", "http://"+s.Addr()+"/api/v1/pipelines/door/preview", nil)
	r.AddCookie(&http.Cookie{Name: cookieName, Value: value})
	resp, err := http.DefaultClient.Do(r)
	if err != nil || resp.StatusCode != 200 {
		t.Fatal(err, resp)
	}
	defer resp.Body.Close()
	s.sessions.end(value)
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		t.Error(err)
	}
}

func TestDoctor(t *testing.T) {
	h := newHouse()
	s := serve(t, Config{Board: h})
	g := guest{t: t, s: s}
	if got := g.want(200, "GET", "/api/v1/doctor", ""); !strings.Contains(got, `"checks":[{"subject":"runner tflite","ok":true`) {
		t.Error(got)
	}
	h.doctor = func(context.Context) ([]hal.Diagnosis, error) { return nil, errors.New("/secret/path is broken") }
	if got := g.want(500, "GET", "/api/v1/doctor", ""); strings.Contains(got, "secret") {
		t.Errorf("says too much: %s", got)
	}
	entered, leave := make(chan struct{}), make(chan struct{})
	h.doctor = func(context.Context) ([]hal.Diagnosis, error) { close(entered); <-leave; return nil, nil }
	done := make(chan struct{})
	go func() { g.do("GET", "/api/v1/doctor", ""); close(done) }()
	<-entered
	g.want(429, "GET", "/api/v1/doctor", "")
	close(leave)
	<-done
}

// TestPanic: what goes wrong in one request is logged, and ends no other.
func TestPanic(t *testing.T) {
	h := newHouse()
	h.doctor = func(context.Context) ([]hal.Diagnosis, error) { panic("a mistake") }
	lines := make(lines, 8) // more than it says
	s, err := New(Config{Board: h, Listen: "127.0.0.1:0", Log: zerolog.New(lines)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(run(t, s))
	<-lines // that it begins
	if resp, err := http.Get("http://" + s.Addr() + "/api/v1/doctor"); err == nil {
		resp.Body.Close()
		t.Errorf("answered with %d", resp.StatusCode)
	}
	if line := <-lines; !strings.Contains(line, "a mistake") {
		t.Errorf("the log says %q", line)
	}
	guest{t: t, s: s}.want(200, "GET", "/healthz", "")
}

// lines is a log that is read line by line.
type lines chan string

func (l lines) Write(b []byte) (int, error) {
	l <- string(b)
	return len(b), nil
}

func TestTooManyConnections(t *testing.T) {
	far, home := netip.MustParseAddr("192.168.1.7"), netip.MustParseAddr("127.0.0.1")
	l := newConnections(nil, netip.Addr{})
	for range maxConnectionsEach {
		if !l.enter(far) {
			t.Fatal("too few")
		}
	}
	if l.enter(far) {
		t.Error("one address has all")
	}
	l.exit(far)
	if !l.enter(far) {
		t.Error("who leaves makes no room")
	}
	for i := range 100 {
		for range 4 {
			l.enter(netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}))
		}
	}
	if l.all != maxConnections {
		t.Errorf("%d connections", l.all)
	}
	if !l.enter(home) {
		t.Error("the board itself is kept out by strangers")
	}

	s := serve(t, Config{Board: newHouse()})
	var open []net.Conn
	for range maxConnections {
		c, err := net.Dial("tcp", s.Addr())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		open = append(open, c)
	}
	c, err := net.Dial("tcp", s.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if n, err := c.Read(make([]byte, 1)); err == nil {
		t.Errorf("%d bytes for one too many", n)
	}
	for _, c := range open {
		c.Close()
	}
}

// TestPageIsSmallAndWhole: what the page names is there, comes from the board alone, and
// stands in no file that a browser would refuse.
func TestPageIsSmallAndWhole(t *testing.T) {
	s := serve(t, Config{Board: newHouse()})
	g := guest{t: t, s: s}
	files, err := pages.ReadDir("page")
	if err != nil {
		t.Fatal(err)
	}
	size := 0
	for _, f := range files {
		path := "/" + strings.TrimSuffix(f.Name(), "index.html")
		resp, body := g.do("GET", path, "")
		size += len(body)
		if resp.StatusCode != 200 || resp.Header.Get("Content-Type") == "" || resp.Header.Get("ETag") == "" {
			t.Errorf("%s: %d %v", path, resp.StatusCode, resp.Header)
		}
		if again, _ := g.with("If-None-Match", resp.Header.Get("ETag")).do("GET", path, ""); again.StatusCode != 304 {
			t.Errorf("%s: sent again", path)
		}
		for _, bad := range []string{"https://", `src="/`, `href="/`, `style="`, `onclick="`} {
			if strings.Contains(body, bad) {
				t.Errorf("%s has %s", f.Name(), bad)
			}
		}
		urls := strings.ReplaceAll(body, "http://www.w3.org/2000/svg", "")
		if strings.Contains(urls, "http://") {
			t.Errorf("%s names another server", f.Name())
		}
	}
	if size > 60<<10 {
		t.Errorf("the page has %d bytes", size)
	}
	g.want(404, "GET", "/nonsense.js", "")
	g.want(405, "POST", "/page.css", "{}")
}

func FuzzRequest(f *testing.F) {
	h := newHouse()
	h.regions["door"] = Regions{}
	s, err := New(Config{Board: h, Listen: "127.0.0.1:0", Hosts: []string{"kitchen"}, Password: password, Log: zerolog.Nop()})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { s.listener.Close() })
	live := s.sessions.begin()
	f.Add("kitchen", "http://kitchen", "covey="+live, `{"zones":[{"id":"a","points":[[0,0],[1,0],[1,1]]}],"masks":[]}`)
	f.Add("[::1]:8099", "null", "covey=", `{"value":0.5}`)
	f.Add("evil.example:80", "https://evil.example", "a=b; covey=\"x\"", `{}`)
	f.Fuzz(func(t *testing.T, host, origin, cookies, body string) {
		for _, path := range []string{"door/regions", "door/settings/threshold"} {
			r, err := http.NewRequest("PUT", "http://x/api/v1/pipelines/"+path, strings.NewReader(body))
			if err != nil {
				t.Fatal(err)
			}
			r.Host, r.RemoteAddr = host, "192.168.1.7:1"
			r.Header = http.Header{"Origin": {origin}, "Cookie": {cookies}, "Content-Type": {"application/json"}}
			before := h.sets
			h.mu.Lock()
			h.regions["door"] = Regions{}
			h.mu.Unlock()
			w := &recorder{header: http.Header{}}
			s.ServeHTTP(w, r)
			done := h.sets > before || h.regions["door"].Origin == OriginHome
			if done && (!strings.Contains(cookies, live) || origin == "" || w.status >= 300) {
				t.Fatalf("host %q, origin %q, cookies %q: let in with %d", host, origin, cookies, w.status)
			}
			name, _, ok := strings.Cut(strings.ToLower(host), ":")
			if _, err := netip.ParseAddr(strings.Trim(host, "[]")); done && err != nil && ok && !slices.Contains([]string{"kitchen", "kitchen.local", "localhost"}, strings.TrimSuffix(name, ".")) {
				if _, err := netip.ParseAddrPort(host); err != nil {
					t.Fatalf("let in by the name %q", host)
				}
			}
			if r := h.regions["door"]; checkRegions(r.Zones, r.Masks) != nil {
				t.Fatalf("the board was given %+v", r)
			}
		}
	})
}

type recorder struct {
	header http.Header
	status int
}

func (w *recorder) Header() http.Header { return w.header }
func (w *recorder) WriteHeader(status int) {
	w.status = status
}
func (w *recorder) Write(b []byte) (int, error) {
	if w.status == 0 {
		w.status = 200
	}
	return len(b), nil
}

// TestPreviewsLast: the time that a request may take to arrive does not count for what is
// watched, and neither does the examination's.
func TestPreviewsLast(t *testing.T) {
	for _, tc := range []struct {
		path string
		want func(io.Reader) error
	}{
		{"/api/v1/pipelines/bedroom/preview", func(r io.Reader) error { _, err := io.CopyN(io.Discard, r, 100_000); return err }}, // some minutes
		{"/api/v1/doctor", func(r io.Reader) error { _, err := io.ReadAll(r); return err }},
	} {
		synctest.Test(t, func(t *testing.T) {
			h := newHouse()
			h.doctor = func(ctx context.Context) ([]hal.Diagnosis, error) {
				select {
				case <-time.After(doctorTime * 3 / 4):
					return nil, nil
				case <-ctx.Done():
					return nil, ctx.Err()
				}
			}
			s, err := New(Config{Board: h, Listen: "127.0.0.1:0", Token: password, Log: zerolog.Nop()})
			if err != nil {
				t.Fatal(err)
			}
			s.listener.Close()
			near, far := net.Pipe()
			l := &oneListener{conn: make(chan net.Conn, 1)}
			l.conn <- far
			s.listener = newConnections(l, netip.Addr{})
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error)
			go func() { done <- s.Run(ctx) }()
			began := time.Now()
			fmt.Fprintf(near, "GET %s HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer %s\r\n\r\n", tc.path, password)
			resp, err := http.ReadResponse(bufio.NewReader(near), nil)
			if err != nil || resp.StatusCode != 200 {
				t.Fatalf("%s: %v %v", tc.path, err, resp)
			}
			if err := tc.want(resp.Body); err != nil || time.Since(began) < 30*time.Second {
				t.Errorf("%s: %v after %v", tc.path, err, time.Since(began))
			}
			near.Close()
			cancel()
			<-done
		})
	}
}

// A oneListener has one connection.
type oneListener struct {
	conn   chan net.Conn
	closed sync.Once
}

func (l *oneListener) Accept() (net.Conn, error) {
	c, ok := <-l.conn
	if !ok {
		return nil, net.ErrClosed
	}
	return c, nil
}

func (l *oneListener) Close() error {
	l.closed.Do(func() { close(l.conn) })
	return nil
}

func (l *oneListener) Addr() net.Addr { return &net.TCPAddr{} }
