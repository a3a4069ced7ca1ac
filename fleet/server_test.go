package fleet_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/covey-edge/covey/fleet"
	v1 "github.com/covey-edge/covey/fleet/internal/api/v1"
	"github.com/covey-edge/covey/fleet/link/mqtt"
	"github.com/covey-edge/covey/fleet/wire"
	"github.com/covey-edge/covey/hal/haltest/port"
)

// limit is how long anything may take before a test gives up.
const limit = 30 * time.Second

// serverEnv makes the test's own program a controller, so that it can be killed.
const serverEnv = "COVEY_TEST_FLEET"

func TestMain(m *testing.M) {
	text := os.Getenv(serverEnv)
	if text == "" {
		os.Exit(m.Run())
	}
	var cfg fleet.Config
	if err := json.Unmarshal([]byte(text), &cfg); err != nil {
		panic(err)
	}
	cfg.Log = zerolog.New(os.Stderr).Level(zerolog.WarnLevel)
	cfg.Check = func(_ context.Context, path string) error { return fleet.CheckStore(path) }
	if err := fleet.Run(context.Background(), cfg); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// A controller is a real one in a process of its own.
type controller struct {
	t    *testing.T
	data string
	cfg  map[string]any
	cmd  *exec.Cmd
	ends fleet.Endpoints
}

func startController(t *testing.T) *controller {
	t.Helper()
	c := &controller{t: t, data: t.TempDir()}
	// The same addresses after every kill, as a real one has.
	c.cfg = map[string]any{"Data": c.data, "Listen": port.Free(t), "MQTT": port.Free(t)}
	c.start()
	t.Cleanup(c.kill)
	return c
}

func (c *controller) start() {
	c.t.Helper()
	text, err := json.Marshal(c.cfg)
	if err != nil {
		c.t.Fatal(err)
	}
	c.cmd = exec.Command(os.Args[0], "-test.run=^$")
	c.cmd.Env = append(os.Environ(), serverEnv+"="+string(text))
	c.cmd.Stderr = os.Stderr
	if err := c.cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	for begin := time.Now(); ; time.Sleep(5 * time.Millisecond) {
		if b, err := os.ReadFile(filepath.Join(c.data, "endpoints.json")); err == nil {
			var ends fleet.Endpoints
			if json.Unmarshal(b, &ends) == nil && ends.PID == c.cmd.Process.Pid {
				c.ends = ends
				return
			}
		}
		if time.Since(begin) > limit {
			c.t.Fatal("the controller does not start")
		}
	}
}

// kill ends it as a power cut would.
func (c *controller) kill() {
	c.cmd.Process.Kill()
	c.cmd.Wait()
}

// client is an HTTPS client that trusts the controller's CA.
func (c *controller) client() *http.Client {
	return &http.Client{Timeout: limit, Transport: &http.Transport{TLSClientConfig: c.trust()}}
}

func (c *controller) trust() *tls.Config {
	c.t.Helper()
	ca, err := os.ReadFile(c.ends.CA)
	if err != nil {
		c.t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	return &tls.Config{RootCAs: pool}
}

// call calls the API as the admin and reads JSON.
func (c *controller) call(method, path, bearer string, in, out any) {
	c.t.Helper()
	if bearer == "" {
		b, err := os.ReadFile(c.ends.Token)
		if err != nil {
			c.t.Fatal(err)
		}
		bearer = strings.TrimSpace(string(b))
	}
	body, err := json.Marshal(in)
	if err != nil {
		c.t.Fatal(err)
	}
	req, err := http.NewRequest(method, c.ends.API+path, strings.NewReader(string(body)))
	if err != nil {
		c.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+bearer)
	req.Header.Set("Content-Type", "application/json")
	resp, err := c.client().Do(req)
	if err != nil {
		c.t.Fatal(err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode/100 != 2 {
		c.t.Fatalf("%s %s: %s %s, %v", method, path, resp.Status, answer, err)
	}
	if err := json.Unmarshal(answer, out); err != nil {
		c.t.Fatalf("%s %s: %s: %v", method, path, answer, err)
	}
}

// join enrols a device over HTTPS and returns what it connects with.
func (c *controller) join(id wire.DeviceID) *tls.Config {
	c.t.Helper()
	var token struct{ Token string }
	c.call("POST", "/v1/tokens", "", map[string]any{}, &token)
	parsed, err := wire.ParseJoinToken(token.Token)
	if err != nil {
		c.t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		c.t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		c.t.Fatal(err)
	}
	var got wire.EnrolResponse
	c.call("POST", "/v1/enrol", parsed.Secret, wire.EnrolRequest{
		ID: id, CSR: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})),
	}, &got)
	if got.MQTT != c.ends.MQTT || got.Root != "covey" {
		c.t.Errorf("enrolled to %q, root %q", got.MQTT, got.Root)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		c.t.Fatal(err)
	}
	pair, err := tls.X509KeyPair([]byte(got.Cert), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}))
	if err != nil {
		c.t.Fatal(err)
	}
	cfg := c.trust()
	cfg.Certificates = []tls.Certificate{pair}
	return cfg
}

// TestKill: a device sends results over the real link while the controller is
// killed again and again. All that was acknowledged is there at the end, once.
func TestKill(t *testing.T) {
	c := startController(t)
	tlsConfig := c.join("pi")
	link, err := mqtt.New(mqtt.Config{URL: c.ends.MQTT, ClientID: "pi", TLS: func() *tls.Config { return tlsConfig.Clone() }, Spread: 10 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	room := make(chan struct{}, 1) // that there is room is enough to know
	poke := func() {
		select {
		case room <- struct{}{}:
		default:
		}
	}
	go func() { done <- link.Run(ctx, wire.Spec{Up: poke, Room: poke}) }()
	defer func() { cancel(); <-done }()

	const n, kills = 600, 5
	var mu sync.Mutex
	acked := map[uint64]bool{}
	all := make(chan struct{})
	topic := wire.Device{Root: "covey", ID: "pi"}.Result("cam")
	for seq := uint64(1); seq <= n; seq++ {
		if seq%(n/kills) == n/kills/2 {
			c.kill()
			c.start()
		}
		payload, err := json.Marshal(wire.Result{V: 1, ID: fmt.Sprintf("pi/r/%d", seq), Seq: seq, Pipe: "cam", Accel: "cpu", Kind: "classify", Items: []wire.Item{}})
		if err != nil {
			t.Fatal(err)
		}
		m := wire.Message{Topic: topic, Payload: payload, QoS: 1}
		for {
			err := link.Publish(m, func() {
				mu.Lock()
				defer mu.Unlock()
				if acked[seq] = true; len(acked) == n {
					close(all)
				}
			})
			if err == nil {
				break
			}
			select {
			case <-room:
			case <-time.After(limit):
				t.Fatalf("result %d: %v", seq, err)
			}
		}
	}
	select {
	case <-all:
	case <-time.After(limit):
		mu.Lock()
		t.Errorf("%d of %d were acknowledged", len(acked), n)
		mu.Unlock()
	}
	c.kill() // even at the end
	c.start()
	var got v1.Results
	c.call("GET", "/v1/devices/pi/pipelines/cam/results?limit=1000", "", nil, &got)
	times := map[uint64]int{}
	for _, r := range got.Results {
		times[r.Result.Seq]++
	}
	mu.Lock()
	defer mu.Unlock()
	for seq := range acked {
		if times[seq] != 1 {
			t.Errorf("result %d was acknowledged and is there %d times", seq, times[seq])
		}
	}
}

// TestStartAndStop: a controller starts on free ports, is ready, and leaves
// nothing behind that says it runs.
func TestStartAndStop(t *testing.T) {
	dir := t.TempDir()
	cfg := fleet.Config{Data: dir, Listen: "127.0.0.1:0", MQTT: "127.0.0.1:0", Plain: "127.0.0.1:0", Log: zerolog.Nop()}
	s, err := fleet.New(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	cfg.Check = func(_ context.Context, path string) error { return fleet.CheckStore(path) }
	if _, err := fleet.New(t.Context(), cfg); !errors.Is(err, fleet.ErrInUse) || strings.Contains(err.Error(), "backup") {
		t.Errorf("a second one in the same folder: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	c := &controller{t: t, data: dir, ends: s.Endpoints()}
	for _, path := range []string{"/healthz", "/readyz"} {
		resp, err := c.client().Get(c.ends.API + path)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			t.Errorf("%s: %s", path, resp.Status)
		}
	}
	token, err := os.Stat(c.ends.Token)
	if err != nil || token.Mode().Perm() != 0o600 {
		t.Errorf("token file: %v, %v", token.Mode(), err)
	}
	cancel()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(limit):
		t.Fatal("does not stop")
	}
	for _, name := range []string{"endpoints.json", "running"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
			t.Errorf("%s is still there", name)
		}
	}
	if _, err := net.Dial("tcp", strings.TrimPrefix(c.ends.MQTT, "mqtts://")); err == nil {
		t.Error("the broker still listens")
	}
}

// TestNonsenseInFlags: what would only show when the first device connects, and a
// database that has lost everything, are refused at the start.
func TestNonsenseInFlags(t *testing.T) {
	for want, cfg := range map[string]fleet.Config{
		"--root": {Root: "a/#"},
		"--host": {Hosts: []string{"fleet.example:8443"}},
		"empty":  {},
	} {
		cfg.Data, cfg.Listen, cfg.MQTT, cfg.Log = t.TempDir(), "127.0.0.1:0", "127.0.0.1:0", zerolog.Nop()
		if want == "empty" {
			if err := os.WriteFile(filepath.Join(cfg.Data, "fleet.db"), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		s, err := fleet.New(t.Context(), cfg)
		if err == nil {
			s.Close()
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
}

// TestDamaged: a damaged database is not used after an unclean stop.
func TestDamaged(t *testing.T) {
	c := startController(t)
	c.kill()
	path := filepath.Join(c.data, "fleet.db")
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	// Everywhere: pages that are free hold older copies.
	b = bytes.ReplaceAll(b, []byte(`"role":"admin"`), []byte(`"role":"aemin"`))
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	cfg := fleet.Config{Data: c.data, Listen: "127.0.0.1:0", MQTT: "127.0.0.1:0", Log: zerolog.Nop(),
		Check: func(_ context.Context, path string) error { return fleet.CheckStore(path) }}
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	if err := fleet.Run(ctx, cfg); err == nil || !strings.Contains(err.Error(), "backup") {
		t.Errorf("started: %v", err)
	}
}
