package api_test

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/covey-edge/covey/fleet/internal/api/apitest"
	v1 "github.com/covey-edge/covey/fleet/internal/api/v1"
	"github.com/covey-edge/covey/fleet/internal/auth"
	"github.com/covey-edge/covey/fleet/internal/policy"
	"github.com/covey-edge/covey/fleet/release"
	"github.com/covey-edge/covey/fleet/wire"
)

// A client calls the API with a token.
type client struct {
	t     *testing.T
	f     *apitest.Fleet
	token string
}

func (c client) http() *http.Client {
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(c.f.Auth.CAPEM())
	tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}
	c.t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

func (c client) send(method, path string, body any) (*http.Response, []byte) {
	c.t.Helper()
	var r io.Reader
	switch b := body.(type) {
	case nil:
	case []byte:
		r = bytes.NewReader(b)
	default:
		j, err := json.Marshal(b)
		if err != nil {
			c.t.Fatal(err)
		}
		r = bytes.NewReader(j)
	}
	req, err := http.NewRequestWithContext(c.t.Context(), method, c.f.URL+path, r)
	if err != nil {
		c.t.Fatal(err)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	resp, err := c.http().Do(req)
	if err != nil {
		c.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		c.t.Fatal(err)
	}
	return resp, b
}

// call expects a status and reads the answer into out, which may be nil.
func (c client) call(method, path string, body any, status int, out any) {
	c.t.Helper()
	resp, b := c.send(method, path, body)
	if resp.StatusCode != status {
		c.t.Fatalf("%s %s: status %d, want %d: %s", method, path, resp.StatusCode, status, b)
	}
	if out != nil {
		if err := json.Unmarshal(b, out); err != nil {
			c.t.Fatalf("%s %s: %v in %s", method, path, err, b)
		}
	}
}

// refused expects a problem with a code.
func (c client) refused(method, path string, body any, status int, code string) v1.Problem {
	c.t.Helper()
	var p v1.Problem
	resp, b := c.send(method, path, body)
	if resp.StatusCode != status || resp.Header.Get("Content-Type") != "application/problem+json" || json.Unmarshal(b, &p) != nil {
		c.t.Fatalf("%s %s: status %d %s, want %d with a problem: %s", method, path, resp.StatusCode, resp.Header.Get("Content-Type"), status, b)
	}
	if p.Code != code || p.Status != status || p.Detail == "" {
		c.t.Errorf("%s %s: %+v, want code %s", method, path, p, code)
	}
	return p
}

func start(t *testing.T) (*apitest.Fleet, client) {
	t.Helper()
	f := apitest.New(t)
	return f, client{t, f, f.Token}
}

// push sends a release of one file and returns it.
func (c client) push(name, version string, size int) v1.ReleaseInfo {
	c.t.Helper()
	m, files, err := release.Build(apitest.Model(c.t, c.t.TempDir(), name+"-"+version+".tflite", size), release.Defaults{Name: name, Version: version})
	if err != nil {
		c.t.Fatal(err)
	}
	for _, f := range m.Files() {
		data, err := os.ReadFile(files[wire.Digest(f.SHA256)])
		if err != nil {
			c.t.Fatal(err)
		}
		c.call("PUT", fmt.Sprintf("/v1/blobs/%s?length=%d", f.SHA256, f.Length), append(bytes.Clone(f.Blocks), data...), http.StatusNoContent, nil)
	}
	var info v1.ReleaseInfo
	c.call("POST", "/v1/releases", m.Canonical(), http.StatusCreated, &info)
	return info
}

// openapi reads the document the controller serves.
func openapi(c client) (doc struct {
	OpenAPI    string `json:"openapi"`
	Components struct {
		Schemas map[string]any `json:"schemas"`
	} `json:"components"`
	Paths map[string]map[string]struct {
		OperationID string           `json:"operationId"`
		Security    []map[string]any `json:"security"`
		Responses   map[string]any   `json:"responses"`
	} `json:"paths"`
}) {
	c.t.Helper()
	c.call("GET", "/openapi.json", nil, http.StatusOK, &doc)
	return doc
}

func TestOpenAPIDescribesItself(t *testing.T) {
	_, c := start(t)
	doc := openapi(c)
	if doc.OpenAPI != "3.1.0" || len(doc.Paths) < 20 {
		t.Fatalf("openapi %q with %d paths", doc.OpenAPI, len(doc.Paths))
	}
	seen := map[string]bool{}
	for path, ops := range doc.Paths {
		for method, op := range ops {
			if op.OperationID == "" || seen[op.OperationID] {
				t.Errorf("%s %s: operation id %q is missing or there twice", method, path, op.OperationID)
			}
			seen[op.OperationID] = true
			if op.Responses["default"] == nil {
				t.Errorf("%s %s: does not say what its errors look like", method, path)
			}
		}
	}
	// Every reference leads somewhere.
	_, raw := c.send("GET", "/openapi.json", nil)
	for _, part := range strings.Split(string(raw), `"$ref":"#/components/schemas/`)[1:] {
		name, _, _ := strings.Cut(part, `"`)
		if doc.Components.Schemas[name] == nil {
			t.Errorf("schema %s is named and not there", name)
		}
	}
}

func TestEveryEndpointRefusesStrangers(t *testing.T) {
	f, c := start(t)
	doc := openapi(c)
	open := map[string]bool{"get /healthz": true, "get /readyz": true, "post /v1/enrol": true, "post /v1/renew": true, "get /v1/blobs/{sha}": true}
	paths := map[string][]string{"/metrics": {"get"}, "/openapi.json": {"get"}, "/": {"get"}, "/v1/nonsense": {"get", "post"}}
	for path, ops := range doc.Paths {
		for method, op := range ops {
			paths[path] = append(paths[path], method)
			if (op.Security == nil) != open[method+" "+path] {
				t.Errorf("%s %s: security in the document is %v", method, path, op.Security)
			}
		}
	}
	fill := strings.NewReplacer("{id}", "pi-1", "{pipeline}", "cam", "{sha}", strings.Repeat("0", 64), "{release}", "m", "{user}", "u", "{name}", "n")
	for _, token := range []string{"", "covey-wrong", strings.Repeat("x", 5000)} {
		stranger := client{t, f, token}
		for path, methods := range paths {
			for _, method := range methods {
				if open[method+" "+path] {
					continue
				}
				stranger.refused(strings.ToUpper(method), fill.Replace(path), nil, http.StatusUnauthorized, v1.CodeUnauthorized)
			}
		}
	}
	stranger := client{t, f, ""}
	stranger.call("GET", "/healthz", nil, http.StatusOK, nil)
	stranger.call("GET", "/readyz", nil, http.StatusOK, nil)
	stranger.refused("POST", "/v1/enrol", map[string]string{"id": "x", "csr": "x"}, http.StatusUnauthorized, v1.CodeUnauthorized)
	stranger.refused("POST", "/v1/renew", map[string]string{"id": "x", "csr": "x"}, http.StatusUnauthorized, v1.CodeUnauthorized)
	stranger.refused("GET", "/v1/blobs/"+strings.Repeat("0", 64), nil, http.StatusUnauthorized, v1.CodeUnauthorized)
}

func TestRolesBoundWhatATokenMayDo(t *testing.T) {
	f, _ := start(t)
	for _, tc := range []struct {
		role                 auth.Role
		look, change, people int
	}{
		{auth.RoleViewer, 200, 403, 403},
		{auth.RoleOperator, 200, 201, 403},
		{auth.RoleAdmin, 200, 201, 201},
	} {
		token, err := f.Auth.AddToken("t-"+string(tc.role), tc.role)
		if err != nil {
			t.Fatal(err)
		}
		c := client{t, f, token}
		c.call("GET", "/v1/devices", nil, tc.look, nil)
		c.call("POST", "/v1/tokens", v1.TokenRequest{}, tc.change, nil)
		c.call("POST", "/v1/homes", map[string]string{"user": "h-" + string(tc.role)}, tc.people, nil)
	}
}

func TestPeopleComeAndGo(t *testing.T) {
	f, c := start(t)
	var p v1.Person
	c.call("POST", "/v1/people", v1.PersonRequest{Name: "ada", Role: "operator"}, http.StatusCreated, &p)
	ada := client{t, f, p.Token}
	var who v1.Controller
	ada.call("GET", "/v1/controller", nil, http.StatusOK, &who)
	if who.You.Name != "ada" || who.You.Role != "operator" {
		t.Errorf("ada is %+v", who.You)
	}
	ada.refused("GET", "/v1/people", nil, http.StatusForbidden, v1.CodeForbidden)
	ada.refused("POST", "/v1/people", v1.PersonRequest{Name: "eve", Role: "admin"}, http.StatusForbidden, v1.CodeForbidden)
	ada.refused("DELETE", "/v1/people/admin", nil, http.StatusForbidden, v1.CodeForbidden)
	c.refused("POST", "/v1/people", v1.PersonRequest{Name: "ada", Role: "admin"}, http.StatusConflict, v1.CodeConflict)
	c.refused("POST", "/v1/people", v1.PersonRequest{Name: "eve", Role: "god"}, http.StatusUnprocessableEntity, v1.CodeInvalid)
	c.refused("DELETE", "/v1/people/admin", nil, http.StatusConflict, v1.CodeConflict) // the last one
	c.refused("DELETE", "/v1/people/eve", nil, http.StatusNotFound, v1.CodeNotFound)
	var list v1.People
	_, text := c.send("GET", "/v1/people", nil)
	if err := json.Unmarshal(text, &list); err != nil || len(list.People) != 2 || strings.Contains(string(text), p.Token) {
		t.Errorf("people: %s, %v", text, err)
	}
	c.call("DELETE", "/v1/people/ada", nil, http.StatusNoContent, nil)
	ada.refused("GET", "/v1/controller", nil, http.StatusUnauthorized, v1.CodeUnauthorized)
}

// What a token follows ends when the token does.
func TestARemovedTokenFollowsNothing(t *testing.T) {
	f, c := start(t)
	board := f.Join(t, "pi-1", nil, "cam")
	c.push("m", "1.0.0", 100)
	var r v1.RolloutDetail
	c.call("POST", "/v1/rollouts", v1.Set{Query: "pi-1", Pipeline: "cam", Release: "m"}, http.StatusCreated, &r)
	var p v1.Person
	c.call("POST", "/v1/people", v1.PersonRequest{Name: "ada", Role: "viewer"}, http.StatusCreated, &p)
	req, err := http.NewRequestWithContext(t.Context(), "GET", f.URL+"/v1/watch/rollouts/"+r.ID, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+p.Token)
	resp, err := c.http().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	c.call("DELETE", "/v1/people/ada", nil, http.StatusNoContent, nil)
	board.Step("cam", board.Wish("cam", ""), wire.Downloading, nil)
	text, err := io.ReadAll(resp.Body) // ends
	if err != nil || strings.Contains(string(text), "DOWNLOADING") {
		t.Errorf("followed on: %s, %v", text, err)
	}
}

func TestStreamsAreCounted(t *testing.T) {
	_, c := start(t)
	open := func() *http.Response {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), "GET", c.f.URL+"/v1/watch/devices", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+c.token)
		resp, err := c.http().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { resp.Body.Close() })
		return resp
	}
	c.f.Join(t, "pi-1", nil, "cam") // so that each stream begins at once
	var first *http.Response
	for range 256 {
		if resp := open(); resp.StatusCode != http.StatusOK {
			t.Fatal(resp.Status)
		} else if first == nil {
			first = resp
		}
	}
	c.refused("GET", "/v1/watch/devices", nil, http.StatusTooManyRequests, v1.CodeTooMany)
	c.call("GET", "/v1/devices", nil, http.StatusOK, nil)
	first.Body.Close()
	for begin := time.Now(); open().StatusCode != http.StatusOK; {
		if time.Since(begin) > 10*time.Second {
			t.Fatal("a stream that ended still counts")
		}
	}
}

func TestJoinByTokenOnce(t *testing.T) {
	f, c := start(t)
	var token v1.Token
	c.call("POST", "/v1/tokens", v1.TokenRequest{Labels: map[string]string{"site": "berlin"}}, http.StatusCreated, &token)
	join, err := wire.ParseJoinToken(token.Token)
	if err != nil || join.URL != f.URL || join.CA != f.Auth.CAHash() {
		t.Fatalf("join token %v: %v", join, err)
	}
	board := client{t, f, join.Secret}
	req := wire.EnrolRequest{ID: "pi-1", CSR: apitest.CSR(t, "pi-1")}
	var got wire.EnrolResponse
	board.call("POST", "/v1/enrol", req, http.StatusCreated, &got)
	if err := got.Validate(); err != nil || got.ID != "pi-1" || got.Root != "covey" {
		t.Fatalf("enrolled as %+v: %v", got, err)
	}
	board.refused("POST", "/v1/enrol", wire.EnrolRequest{ID: "pi-2", CSR: apitest.CSR(t, "pi-2")}, http.StatusUnauthorized, v1.CodeUnauthorized)

	var d v1.DeviceDetail
	c.call("GET", "/v1/devices/pi-1", nil, http.StatusOK, &d)
	if d.State != "new" || d.Labels["site"] != "berlin" {
		t.Errorf("device after joining: %+v", d.Device)
	}
	c.call("POST", "/v1/devices/pi-1/revoke", nil, http.StatusNoContent, nil)
	if k := f.Sent.Kicked(); len(k) != 1 || k[0] != "pi-1" {
		t.Errorf("kicked %v", k)
	}
	c.refused("GET", "/v1/devices/pi-9", nil, http.StatusNotFound, v1.CodeNotFound)
}

func TestGuessingJoinTokensIsSlowedDown(t *testing.T) {
	f, c := start(t)
	stranger := client{t, f, "jt-wrong.secret"}
	req := wire.EnrolRequest{ID: "pi-1", CSR: apitest.CSR(t, "pi-1")}
	for range 10 {
		stranger.refused("POST", "/v1/enrol", req, http.StatusUnauthorized, v1.CodeUnauthorized)
	}
	resp, _ := stranger.send("POST", "/v1/enrol", req)
	if resp.StatusCode != http.StatusTooManyRequests || resp.Header.Get("Retry-After") == "" {
		t.Errorf("status %d, Retry-After %q", resp.StatusCode, resp.Header.Get("Retry-After"))
	}
	c.call("GET", "/v1/devices", nil, http.StatusOK, nil) // people are not slowed down
}

func TestPushGoesOnWhereItEnded(t *testing.T) {
	_, c := start(t)
	const size = 5*wire.BlockSize + 100
	m, files, err := release.Build(apitest.Model(t, t.TempDir(), "big.tflite", size), release.Defaults{Version: "1.0.0"})
	if err != nil {
		t.Fatal(err)
	}
	f := m.Files()[0]
	data, err := os.ReadFile(files[wire.Digest(f.SHA256)])
	if err != nil {
		t.Fatal(err)
	}
	path := "/v1/blobs/" + f.SHA256
	length := fmt.Sprintf("?length=%d", size)
	p := c.refused("POST", "/v1/releases", m.Canonical(), http.StatusConflict, v1.CodeMissing)
	if len(p.Errors) != 1 || p.Errors[0].What != f.SHA256 {
		t.Errorf("missing: %+v", p.Errors)
	}

	// A cut after three blocks and a half.
	cut := append(bytes.Clone(f.Blocks), data[:3*wire.BlockSize+1000]...)
	c.refused("PUT", path+length, cut, http.StatusBadRequest, v1.CodeInvalid)
	var s v1.BlobState
	c.call("POST", path+"/check"+length, f.Blocks, http.StatusOK, &s)
	if s.Here || s.From != 3 {
		t.Fatalf("after a cut in block 3: %+v", s)
	}

	bad := append(bytes.Clone(f.Blocks), data[3*wire.BlockSize:]...)
	bad[len(f.Blocks)+7] ^= 1
	c.refused("PUT", path+length+"&from=3", bad, http.StatusUnprocessableEntity, "E_HASH")

	rest := append(bytes.Clone(f.Blocks), data[3*wire.BlockSize:]...)
	c.call("PUT", path+length+"&from=3", rest, http.StatusNoContent, nil)
	c.call("POST", path+"/check"+length, f.Blocks, http.StatusOK, &s)
	if !s.Here {
		t.Fatalf("after the rest: %+v", s)
	}
	var info v1.ReleaseInfo
	c.call("POST", "/v1/releases", m.Canonical(), http.StatusCreated, &info)
	if info.Digest != m.Digest() || info.Size != size || info.By != "admin" {
		t.Errorf("pushed %+v", info)
	}
	c.call("POST", "/v1/releases", m.Canonical(), http.StatusCreated, nil) // again: no harm

	var d v1.ReleaseDetail
	for _, ref := range []string{"big@1.0.0", "big", string(info.Digest)[:10]} {
		c.call("GET", "/v1/releases/"+ref, nil, http.StatusOK, &d)
		if d.Digest != info.Digest || len(d.Variants) != 1 || d.Variants[0].Engine != "tflite" {
			t.Errorf("release by %q: %+v", ref, d)
		}
	}
	c.refused("GET", "/v1/releases/big@2", nil, http.StatusNotFound, v1.CodeNotFound)
}

func TestSameNameAndVersionWithOtherFilesIsRefused(t *testing.T) {
	_, c := start(t)
	c.push("m", "1.0.0", 100)
	m, files, err := release.Build(apitest.Model(t, t.TempDir(), "other.tflite", 200), release.Defaults{Name: "m", Version: "1.0.0"})
	if err != nil {
		t.Fatal(err)
	}
	f := m.Files()[0]
	data, _ := os.ReadFile(files[wire.Digest(f.SHA256)])
	c.call("PUT", fmt.Sprintf("/v1/blobs/%s?length=%d", f.SHA256, f.Length), append(bytes.Clone(f.Blocks), data...), http.StatusNoContent, nil)
	c.refused("POST", "/v1/releases", m.Canonical(), http.StatusConflict, v1.CodeConflict)
}

func TestNonsenseIsRefusedWithAReason(t *testing.T) {
	f, c := start(t)
	f.Join(t, "pi-1", nil, "cam")
	c.push("m", "1.0.0", 100)
	sha := strings.Repeat("0", 64)
	for _, tc := range []struct {
		name, method, path string
		body               any
		status             int
		code               string
	}{
		{"not json", "POST", "/v1/rollouts", []byte("{"), 400, v1.CodeInvalid},
		{"unknown key", "POST", "/v1/tokens", map[string]any{"use": 1}, 422, v1.CodeInvalid},
		{"pipeline with a slash", "POST", "/v1/rollouts", v1.Set{Query: "all", Pipeline: "a/b", Release: "m"}, 422, v1.CodeInvalid},
		{"bad query", "POST", "/v1/rollouts", v1.Set{Query: "a b", Pipeline: "cam", Release: "m"}, 422, v1.CodeInvalid},
		{"nobody", "POST", "/v1/rollouts", v1.Set{Query: "site=mars", Pipeline: "cam", Release: "m"}, 404, v1.CodeNotFound},
		{"no release", "POST", "/v1/rollouts", v1.Set{Query: "all", Pipeline: "cam", Release: "zzz"}, 404, v1.CodeNotFound},
		{"group changed", "POST", "/v1/rollouts", v1.Set{Query: "all", Pipeline: "cam", Release: "m", Devices: 7}, 409, v1.CodeConflict},
		{"no pipeline", "POST", "/v1/rollouts", v1.Set{Query: "all", Pipeline: "door", Release: "m"}, 409, v1.CodeRefused},
		{"too long", "POST", "/v1/tokens", bytes.Repeat([]byte(" "), v1.MaxBody+1), 413, v1.CodeTooLarge},
		{"unknown parameter", "GET", "/v1/devices?querry=all", nil, 422, v1.CodeInvalid},
		{"device id", "GET", "/v1/devices/PI", nil, 422, v1.CodeInvalid},
		{"blob name", "PUT", "/v1/blobs/xyz?length=1", []byte("x"), 422, v1.CodeInvalid},
		{"blob without hashes", "PUT", "/v1/blobs/" + sha + "?length=1", []byte("x"), 422, v1.CodeInvalid},
		{"blob too long", "PUT", "/v1/blobs/" + sha + "?length=2000000000", []byte("x"), 422, v1.CodeInvalid},
		{"manifest", "POST", "/v1/releases", []byte(`{"v":1}`), 422, "E_MANIFEST"},
		{"label of the inventory", "PATCH", "/v1/devices/pi-1", map[string]any{"labels": map[string]any{"board": "x"}}, 422, v1.CodeInvalid},
		{"token for ever", "POST", "/v1/tokens", map[string]any{"ttl_seconds": int64(1) << 62}, 422, v1.CodeInvalid},
		{"rollout", "GET", "/v1/rollouts/ro-none", nil, 404, v1.CodeNotFound},
		{"watch of none", "GET", "/v1/watch/rollouts/ro-none", nil, 404, v1.CodeNotFound},
		{"no such path", "GET", "/v2/devices", nil, 404, v1.CodeNotFound},
	} {
		t.Run(tc.name, func(t *testing.T) {
			client{t, c.f, c.token}.refused(tc.method, tc.path, tc.body, tc.status, tc.code)
		})
	}
}

func TestSetLabelsAndResults(t *testing.T) {
	f, c := start(t)
	d := f.Join(t, "pi-1", map[string]string{"site": "berlin"}, "cam")
	c.call("PATCH", "/v1/devices/pi-1", map[string]any{"name": "Front door", "labels": map[string]any{"floor": "2", "site": nil}}, http.StatusOK, nil)
	c.call("PUT", "/v1/devices/pi-1/pipelines/cam/results", v1.Ask{On: true}, http.StatusOK, nil)
	var got v1.DeviceDetail
	c.call("GET", "/v1/devices/pi-1", nil, http.StatusOK, &got)
	if got.Name != "Front door" || len(got.Labels) != 1 || got.Labels["floor"] != "2" || !got.Pipelines[0].Results || got.State != "online" {
		t.Errorf("device %+v", got.Device)
	}
	for n := range 3 {
		d.Say("result/cam", wire.Result{V: 1, ID: fmt.Sprintf("r-%d", n), Seq: uint64(n + 1), Pipe: "cam", Kind: "classify", Items: []wire.Item{{Label: "peacock", Score: .9}}})
	}
	d.Say("result/cam", wire.Lost{V: 1, ID: "l-4", Seq: 4, Lost: wire.LostSpan{Class: "result", From: 4, To: 4, Reason: "crash"}})
	var page v1.Results
	c.call("GET", "/v1/devices/pi-1/pipelines/cam/results?after=1&limit=10", nil, http.StatusOK, &page)
	if len(page.Results) != 3 || page.Results[0].Result.ID != "r-1" || page.Results[2].Lost == nil {
		t.Errorf("results %+v", page)
	}
	c.call("PUT", "/v1/devices/pi-1/pipelines/cam/results", v1.Ask{On: false}, http.StatusOK, nil)
	got = v1.DeviceDetail{}
	c.call("GET", "/v1/devices/pi-1", nil, http.StatusOK, &got)
	if got.Pipelines[0].Results {
		t.Error("results are still asked for")
	}
}

// events reads a stream and hands each event on until fn says enough.
func (c client) events(path string, fn func(event string, data []byte) (more bool)) {
	c.t.Helper()
	req, err := http.NewRequestWithContext(c.t.Context(), "GET", c.f.URL+path, nil)
	if err != nil {
		c.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+c.token)
	resp, err := c.http().Do(req)
	if err != nil {
		c.t.Fatal(err)
	}
	defer resp.Body.Close()
	event := ""
	for s := bufio.NewScanner(resp.Body); s.Scan(); {
		if v, ok := strings.CutPrefix(s.Text(), "event: "); ok {
			event = v
		}
		if v, ok := strings.CutPrefix(s.Text(), "data: "); ok && !fn(event, []byte(v)) {
			return
		}
	}
}

func TestARolloutIsFollowedToItsEnd(t *testing.T) {
	f, c := start(t)
	boards := []*apitest.Device{
		f.Join(t, "pi-1", map[string]string{"site": "berlin"}, "cam"),
		f.Join(t, "pi-2", map[string]string{"site": "berlin"}, "cam"),
		f.Join(t, "pi-3", map[string]string{"site": "berlin"}, "door"), // has no such pipeline
	}
	f.Join(t, "pi-4", map[string]string{"site": "paris"}, "cam")
	rel := c.push("m", "2.0.0", 1000)

	set := v1.Set{Query: "site=berlin", Pipeline: "cam", Release: "m"}
	var plan v1.Plan
	c.call("POST", "/v1/plan", set, http.StatusOK, &plan)
	if len(plan.Targets) != 3 || plan.Targets[0].Refusal != nil || plan.Targets[2].Refusal == nil || plan.Targets[2].Refusal.Code != "E_PIPELINE" {
		t.Fatalf("plan %+v", plan.Targets)
	}
	var r v1.RolloutDetail
	c.call("POST", "/v1/rollouts", set, http.StatusCreated, &r)
	if r.State != wire.RolloutRunning || r.Counts[wire.Rejected] != 1 || r.Counts[wire.Queued] != 2 {
		t.Fatalf("started %+v", r.Rollout)
	}
	var seen []wire.ExecState
	var last v1.RolloutChange
	c.events("/v1/watch/rollouts/"+r.ID, func(event string, data []byte) bool {
		var ch v1.RolloutChange
		if event != "rollout" || json.Unmarshal(data, &ch) != nil {
			t.Fatalf("event %q: %s", event, data)
		}
		if len(seen) == 0 && len(ch.Executions) > 0 { // now that somebody watches
			w := boards[0].Wish("cam", "")
			if w.Release != rel.Digest || w.Attempt != 1 {
				t.Errorf("desired %+v", w)
			}
			boards[0].Step("cam", w, wire.Downloading, nil)
			boards[0].Report("cam", w, wire.Succeeded, nil)
			fault := &wire.Fault{Code: "E_CRASH", Text: "runner died by signal 11"}
			boards[1].Report("cam", boards[1].Wish("cam", ""), wire.RolledBack, fault)
		}
		for _, x := range ch.Executions {
			seen = append(seen, x.State)
		}
		last = ch
		return true // the controller ends the stream
	})
	want := map[wire.ExecState]int{wire.Succeeded: 1, wire.RolledBack: 1, wire.Rejected: 1}
	if last.Rollout.State != wire.RolloutCompleted || fmt.Sprint(last.Rollout.Counts) != fmt.Sprint(want) {
		t.Errorf("ended as %+v, seen %v", last.Rollout, seen)
	}

	// Asked again after a roll back, the attempt rises.
	c.call("POST", "/v1/rollouts", v1.Set{Query: "pi-2", Pipeline: "cam", Release: "m"}, http.StatusCreated, &r)
	if r.Executions[0].Attempt != 2 {
		t.Errorf("attempt %d after a quarantine", r.Executions[0].Attempt)
	}
}

func TestWatchShowsDevicesComing(t *testing.T) {
	f, c := start(t)
	f.Join(t, "pi-1", nil, "cam")
	var states []string
	c.events("/v1/watch/devices?query=pipeline=cam", func(_ string, data []byte) bool {
		var ch v1.DeviceChange
		if err := json.Unmarshal(data, &ch); err != nil {
			t.Fatal(err)
		}
		if len(states) == 0 {
			f.Join(t, "pi-2", nil, "cam")
		}
		states = append(states, string(ch.Device.ID)+" "+ch.Device.State)
		return len(states) < 2
	})
	if want := "[pi-1 online pi-2 online]"; fmt.Sprint(states) != want {
		t.Errorf("saw %v, want %s", states, want)
	}
}

func TestHomesAndMetrics(t *testing.T) {
	f, c := start(t)
	var h v1.Home
	c.call("POST", "/v1/homes", map[string]string{"user": "villa"}, http.StatusCreated, &h)
	if err := f.Auth.Home("villa", h.Password); err != nil {
		t.Errorf("the password shown is not the user's: %v", err)
	}
	c.refused("POST", "/v1/homes", map[string]string{"user": "villa"}, http.StatusConflict, v1.CodeConflict)
	var list v1.Homes
	c.call("GET", "/v1/homes", nil, http.StatusOK, &list)
	if len(list.Homes) != 1 || list.Homes[0].Password != "" {
		t.Errorf("homes %+v", list.Homes)
	}
	c.call("DELETE", "/v1/homes/villa", nil, http.StatusNoContent, nil)
	c.refused("DELETE", "/v1/homes/villa", nil, http.StatusNotFound, v1.CodeNotFound)

	f.Join(t, "pi-1", nil, "cam")
	_, text := c.send("GET", "/metrics", nil)
	for _, line := range []string{`covey_devices{state="online"} 1`, `covey_http_seconds_count{route="POST /v1/homes",status="409"} 1`} {
		if !strings.Contains(string(text), line+"\n") {
			t.Errorf("metrics have no %s", line)
		}
	}
}

// A phase says who may approve it, and what one may ask of a rollout depends on how it
// stands.
func TestWhoMayDoWhatToARollout(t *testing.T) {
	f, c := start(t)
	f.Join(t, "pi-1", nil, "cam")
	c.push("m", "1.0.0", 1000)
	var ada v1.Person
	c.call("POST", "/v1/people", v1.PersonRequest{Name: "ada", Role: "operator"}, http.StatusCreated, &ada)
	op := c
	op.token = ada.Token

	how := policy.AtOnce()
	how.Phases[0].Approval = "admin"
	var r v1.RolloutDetail
	op.call("POST", "/v1/rollouts", v1.Set{Query: "pi-1", Pipeline: "cam", Release: "m", Policy: &how}, http.StatusCreated, &r)
	if r.Policy.Phases[0].Approval != "admin" || r.Phases[0].Devices != 1 {
		t.Errorf("started %+v", r)
	}
	path := "/v1/rollouts/" + r.ID + "/"
	op.refused("POST", path+"approve", nil, http.StatusForbidden, v1.CodeForbidden)
	op.refused("POST", path+"resume", nil, http.StatusConflict, v1.CodeConflict)
	op.refused("POST", path+"retry", nil, http.StatusConflict, v1.CodeConflict)
	op.refused("POST", path+"dance", nil, http.StatusNotFound, v1.CodeNotFound)
	c.call("POST", path+"approve", nil, http.StatusOK, nil)
	c.call("GET", "/v1/rollouts/"+r.ID, nil, http.StatusOK, &r)
	if a := r.Phases[0].Approved; a == nil || a.By != "admin" || len(r.History) < 2 || r.History[0].By != "ada" {
		t.Errorf("approved by %+v; %+v", a, r.History)
	}
	op.call("POST", path+"pause", nil, http.StatusOK, nil)
	op.call("POST", path+"abort", nil, http.StatusOK, nil)

	how.Phases[0].Percent = 0
	op.refused("POST", "/v1/plan", v1.Set{Query: "pi-1", Pipeline: "cam", Release: "m", Policy: &how}, http.StatusUnprocessableEntity, v1.CodeInvalid)
	op.refused("POST", "/v1/plan", map[string]any{"query": "pi-1", "pipeline": "cam", "release": "m", "policy": map[string]any{"fazes": 1}}, http.StatusUnprocessableEntity, v1.CodeInvalid)
}
