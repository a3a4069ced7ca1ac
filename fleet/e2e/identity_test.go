package e2e

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"

	"github.com/covey-edge/covey/agent"
	"github.com/covey-edge/covey/fleet/wire"
)

// notToRead is what nobody but its owner may read, and filters that match it. ME
// stands for the one who tries.
func notToRead(me string) []string {
	return strings.Fields(strings.ReplaceAll(`#  +/#  covey/#  covey/1/d/#  covey/1/d/+/up/status  covey/1/d/+/dn/desired
		covey/1/d/pi-2/#  covey/1/d/pi-2/up/#  covey/1/d/pi-2/up/status  covey/1/d/pi-2/dn/#  covey/1/d/pi-2/dn/desired
		covey/1/d/ME/#  covey/1/d/ME/up/#  covey/1/d/ME/+/desired
		$share/g/covey/1/d/pi-2/up/#  $SYS/#  covey/home/#  homeassistant/#`, "ME", me))
}

func notToWrite(me string) []string {
	return strings.Fields(strings.ReplaceAll(`covey/1/d/pi-2/up/status  covey/1/d/pi-2/up/reported  covey/1/d/pi-2/dn/desired
		covey/1/d/ME/dn/desired  covey/1/d/ME/dn/cmd/diagnose  covey/1/d/pi-2~x/up/block/get
		covey/home/pi-2/available  homeassistant/device/pi-2/config  other`, "ME", me))
}

// An intruder is a client from outside with a device's key.
type intruder struct {
	c     *controller
	id    string
	dir   string // of its PEM files
	creds []string
}

// stolen writes a board's identity for other programs.
func (e *edge) stolen() *intruder {
	e.t.Helper()
	id, err := agent.LoadIdentity(filepath.Join(e.dir, "data"))
	if err != nil || id == nil {
		e.t.Fatalf("identity of %s: %v", e.id, err)
	}
	i := &intruder{c: e.c, id: e.id, dir: e.t.TempDir()}
	for name, text := range map[string]string{"cert": id.Cert, "key": id.Key, "ca": id.CA} {
		write(e.t, filepath.Join(i.dir, name), []byte(text))
	}
	i.creds = []string{"--cafile", filepath.Join(i.dir, "ca"), "--cert", filepath.Join(i.dir, "cert"), "--key", filepath.Join(i.dir, "key")}
	return i
}

// try runs mosquitto_pub or mosquitto_sub; it returns what was printed and
// whether the program says that it went well.
func (i *intruder) try(t *testing.T, program string, creds []string, args ...string) (string, bool) {
	t.Helper()
	host, port, _ := net.SplitHostPort(i.c.mqtt)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, slices.Concat([]string{"-h", host, "-p", port, "-q", "1"}, creds, args)...)
	out, err := cmd.CombinedOutput()
	if ctx.Err() != nil {
		t.Errorf("%s %q does not end", program, args)
	}
	return string(out), err == nil
}

// mustLog wants that the controller logged a refusal with all of these.
func (i *intruder) mustLog(t *testing.T, texts ...string) {
	t.Helper()
	texts = append(texts, `"message":"refused"`)
	until(t, 5*time.Second, "refusal in the controller's log", func() error {
		if !i.c.said(texts...) {
			return fmt.Errorf("no line with %q", texts)
		}
		return nil
	})
}

// Wrong credentials, another's id, another's topics: refused and logged, whatever
// client tries; what a device may do, works.
func TestIntruders(t *testing.T) {
	c := newController(t)
	two := newEdge(t, c, "pi-2", "pipelines: {cam: {source: {type: synthetic, fps: 5}}}")
	two.join()
	two.start()
	c.awaitDevice("pi-2", 20*time.Second, "online", func(d device) bool { return d.State == "online" && d.Reported != nil })
	one := newEdge(t, c, "pi-1", "pipelines: {}")
	one.join()
	i := one.stolen()
	three := newEdge(t, c, "pi-3", "pipelines: {}") // for the other client: what is refused twice is logged once
	three.join()
	for _, id := range []string{"pi-1", "pi-3"} {
		c.covey("device", "results", id, "*", "on") // now there is a desired document
	}

	t.Run("its own", func(t *testing.T) { i.own(t) })
	t.Run("credentials", func(t *testing.T) { i.credentials(t) })
	t.Run("topics", func(t *testing.T) { i.topics(t) })
	t.Run("paho", func(t *testing.T) { three.stolen().paho(t) })
	t.Run("home", func(t *testing.T) { i.home(t) })
	t.Run("revoked", func(t *testing.T) {
		c.covey("device", "revoke", "pi-1", "--yes")
		if out, ok := i.try(t, "mosquitto_pub", i.creds, "-i", "pi-1", "-t", "covey/1/d/pi-1/up/status", "-m", "x"); ok {
			t.Errorf("a revoked device was let in: %s", out)
		}
		i.mustLog(t, "revoked")
	})
	// After all that, the other board is as it was.
	d := c.device("pi-2")
	if d.State != "online" || len(d.Flags) > 0 || d.Reported.Pipelines["cam"].Fault != nil {
		t.Errorf("pi-2 is %s %v %+v, want it online and well", d.State, d.Flags, d.Reported)
	}
	if n := two.count("link down"); n > 0 {
		t.Errorf("pi-2 lost its link %d times", n)
	}
}

// own is what a device may do: the others are not refused for another reason.
func (i *intruder) own(t *testing.T) {
	out, ok := i.try(t, "mosquitto_sub", i.creds, "-i", "pi-1", "-t", "covey/1/d/pi-1/dn/#", "-C", "1", "-W", "10")
	if !ok || !strings.Contains(out, `"device":"pi-1"`) {
		t.Errorf("its own desired document: %s", out)
	}
	status, _ := json.Marshal(wire.Status{V: 1, State: wire.StateOnline, SID: 1, MID: "m", TS: time.Now()})
	if out, ok := i.try(t, "mosquitto_pub", i.creds, "-i", "pi-1", "-t", "covey/1/d/pi-1/up/status", "-m", string(status)); !ok {
		t.Errorf("its own status: %s", out)
	}
	i.c.awaitDevice("pi-1", 5*time.Second, "online", func(d device) bool { return d.State == "online" })
}

func (i *intruder) credentials(t *testing.T) {
	ca := i.creds[:2]
	id := "covey/1/d/pi-1/up/status"
	for _, c := range []struct {
		name  string
		creds []string
		args  []string
		log   []string
	}{
		{"none", ca, []string{"-i", "pi-1"}, []string{`"client":"pi-1"`, "neither a client certificate"}},
		{"a user nobody knows", append(ca[:2:2], "-u", "villa", "-P", "wrong"), []string{"-i", "x"}, []string{"wrong user or password"}},
		{"a device as a user", append(ca[:2:2], "-u", "pi-2", "-P", "pi-2"), []string{"-i", "pi-2"}, []string{`"client":"pi-2"`, "wrong user or password"}},
		{"a key of its own making", append(ca[:2:2], selfMade(t)...), []string{"-i", "pi-1"}, []string{"tls"}},
		{"another's id", i.creds, []string{"-i", "pi-2"}, []string{`"client":"pi-2"`, "does not allow this client id"}},
		{"another's second id", i.creds, []string{"-i", "pi-2~x"}, []string{`"client":"pi-2~x"`, "does not allow this client id"}},
		{"no id", i.creds, []string{"-i", ""}, []string{"does not allow this client id"}},
		{"another's will", i.creds, []string{"-i", "pi-1", "--will-topic", "covey/1/d/pi-2/up/status", "--will-payload", "x"}, []string{`will on \"covey/1/d/pi-2/up/status\" is not allowed`}},
	} {
		out, ok := i.try(t, "mosquitto_pub", c.creds, append(c.args, "-t", id, "-m", "x")...)
		if ok {
			t.Errorf("%s: let in: %s", c.name, out)
		}
		i.mustLog(t, c.log...)
	}
}

// selfMade is a client certificate for pi-1 that nobody signed.
func selfMade(t *testing.T) []string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	about := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "pi-1"}, NotAfter: time.Now().Add(time.Hour)}
	cert, err := x509.CreateCertificate(rand.Reader, about, about, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	write(t, filepath.Join(dir, "cert"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}))
	write(t, filepath.Join(dir, "key"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}))
	return []string{"--cert", filepath.Join(dir, "cert"), "--key", filepath.Join(dir, "key")}
}

// denied is what mosquitto_sub says when it may not read. It takes that for a success.
const denied = "All subscription requests were denied"

func (i *intruder) topics(t *testing.T) {
	for _, filter := range notToRead(i.id) {
		out, _ := i.try(t, "mosquitto_sub", i.creds, "-i", "pi-1", "-t", filter, "-C", "1", "-W", "3")
		if !strings.Contains(out, denied) {
			t.Errorf("read %s: %s", filter, out)
		}
		i.mustLog(t, `"client":"pi-1"`, `"what":"read"`, `"topic":"`+filter+`"`)
	}
	for _, topic := range notToWrite(i.id) {
		i.try(t, "mosquitto_pub", i.creds, "-i", "pi-1", "-t", topic, "-m", "x", "-r") // MQTT 3.1.1 has no word for no
		i.mustLog(t, `"client":"pi-1"`, `"what":"write"`, `"topic":"`+topic+`"`)
	}
	if out, _ := i.try(t, "mosquitto_sub", i.creds, "-i", "pi-1~x", "-t", "covey/1/d/pi-1/dn/desired", "-C", "1", "-W", "3"); !strings.Contains(out, denied) {
		t.Errorf("the second connection reads the desired document: %s", out)
	}
	i.mustLog(t, `"client":"pi-1~x"`, `"what":"read"`)
}

// paho is a plain client that does not mind what it is told.
func (i *intruder) paho(t *testing.T) {
	cert, err := tls.LoadX509KeyPair(filepath.Join(i.dir, "cert"), filepath.Join(i.dir, "key"))
	if err != nil {
		t.Fatal(err)
	}
	heard := make(chan string, 1000)
	o := paho.NewClientOptions().AddBroker("mqtts://" + i.c.mqtt).SetClientID(i.id).SetAutoReconnect(false).
		SetTLSConfig(&tls.Config{Certificates: []tls.Certificate{cert}, InsecureSkipVerify: true}).
		SetDefaultPublishHandler(func(_ paho.Client, m paho.Message) { heard <- m.Topic() })
	wait := func(token paho.Token) error {
		if !token.WaitTimeout(10 * time.Second) {
			return os.ErrDeadlineExceeded
		}
		return token.Error()
	}
	dial := func() paho.Client {
		t.Helper()
		client := paho.NewClient(o)
		if err := wait(client.Connect()); err != nil {
			t.Fatal(err)
		}
		return client
	}
	for _, topic := range notToWrite(i.id) {
		client := dial()
		wait(client.Publish(topic, 1, true, "from paho")) // the broker cuts the connection
		i.mustLog(t, `"client":"`+i.id+`"`, `"what":"write"`, `"topic":"`+topic+`"`)
		client.Disconnect(0)
	}
	client := dial()
	defer client.Disconnect(0)
	for _, filter := range notToRead(i.id) {
		token := client.Subscribe(filter, 1, nil).(*paho.SubscribeToken)
		wait(token)
		answer := token.Result() // by filter, without the $share
		for _, granted := range answer {
			if granted != 0x80 {
				t.Errorf("paho reads %s: %v", filter, answer)
			}
		}
		if len(answer) != 1 {
			t.Errorf("paho subscribes to %s: %v", filter, answer)
		}
		i.mustLog(t, `"client":"`+i.id+`"`, `"what":"read"`, `"topic":"`+filter+`"`)
	}
	if err := wait(client.Subscribe("covey/1/d/"+i.id+"/dn/#", 1, nil)); err != nil {
		t.Errorf("its own topics: %v", err)
	}
	select {
	case topic := <-heard:
		if topic != "covey/1/d/"+i.id+"/dn/desired" {
			t.Errorf("heard %s", topic)
		}
	case <-time.After(10 * time.Second):
		t.Error("its own desired document did not come")
	}
	for len(heard) > 0 {
		if topic := <-heard; !strings.HasPrefix(topic, "covey/1/d/"+i.id+"/dn/") {
			t.Errorf("heard %s", topic)
		}
	}
}

// home is a house's user, who may have the house and nothing of the fleet.
func (i *intruder) home(t *testing.T) {
	password := ask[struct{ Password string }](i.c, "home", "add", "villa").Password
	creds := append(i.creds[:2:2], "-u", "villa", "-P", password)
	if out, ok := i.try(t, "mosquitto_pub", creds, "-t", "covey/home/pi-9/cam/enabled/set", "-m", "on", "-r"); !ok {
		t.Errorf("write to the house: %s", out)
	}
	if out, ok := i.try(t, "mosquitto_sub", creds, "-t", "covey/home/#", "-C", "1", "-W", "10"); !ok || strings.TrimSpace(out) != "on" {
		t.Errorf("read of the house: %q", out)
	}
	for _, filter := range []string{"#", "covey/#", "covey/1/d/pi-2/up/#", "covey/1/d/pi-2/dn/desired", "$SYS/#"} {
		out, _ := i.try(t, "mosquitto_sub", creds, "-i", "pi-2", "-t", filter, "-C", "1", "-W", "3")
		if !strings.Contains(out, denied) {
			t.Errorf("a house reads %s: %s", filter, out)
		}
		i.mustLog(t, `"client":"home:villa:pi-2"`, `"what":"read"`, `"topic":"`+filter+`"`)
	}
	for _, topic := range []string{"covey/1/d/pi-2/dn/desired", "covey/1/d/pi-2/up/status", "other"} {
		i.try(t, "mosquitto_pub", creds, "-i", "pi-2", "-t", topic, "-m", "x", "-r")
		i.mustLog(t, `"client":"home:villa:pi-2"`, `"what":"write"`, `"topic":"`+topic+`"`)
	}
	i.c.covey("home", "remove", "villa")
	if _, ok := i.try(t, "mosquitto_pub", creds, "-t", "covey/home/pi-9/x", "-m", "x"); ok {
		t.Error("a house that was removed is let in")
	}
}

// One identity on two machines: both notice, and do not throw each other out for
// ever; the controller raises an alarm.
func TestTwoMachines(t *testing.T) {
	t.Parallel()
	unshare := []string{"unshare", "-m"}
	if os.Geteuid() != 0 {
		unshare = []string{"unshare", "-rm"}
	}
	if _, err := os.Stat("/etc/machine-id"); err != nil {
		t.Skip("this machine has no /etc/machine-id to put another in the place of")
	}
	if _, err := run(t, nil, append(unshare, "mount", "--bind", "/etc/hostname", "/etc/machine-id")...); err != nil {
		t.Skipf("no second machine can be made here: %v", err)
	}
	c := newController(t)
	one := newEdge(t, c, "pi-1", "pipelines: {cam: {source: {type: synthetic, fps: 5}}}")
	one.join()
	two := newEdge(t, c, "pi-1", "pipelines: {cam: {source: {type: synthetic, fps: 5}}}")
	if err := os.CopyFS(filepath.Join(two.dir, "data", "identity"), os.DirFS(filepath.Join(one.dir, "data", "identity"))); err != nil {
		t.Fatal(err)
	}
	one.start()
	c.awaitDevice("pi-1", 20*time.Second, "online", func(d device) bool { return d.State == "online" })
	machine := filepath.Join(two.dir, "machine-id")
	write(t, machine, []byte("0123456789abcdef0123456789abcdef\n"))
	two.process = start(t, "second covey-agent pi-1", nil, append(unshare, "sh", "-c",
		`mount --bind "$0" /etc/machine-id && exec "$1" run --config "$2"`, machine, program(t, "covey-agent"), two.config)...)

	const noticed = `"flag":"duplicate_identity"`
	c.await(noticed, 30*time.Second)
	c.awaitDevice("pi-1", 10*time.Second, "is flagged", func(d device) bool { return slices.Contains(d.Flags, "duplicate_identity") })
	const watched = 30 * time.Second
	pause(t, watched) // the time is what is tested
	cuts := one.count("link down") + two.count("link down")
	if cuts > 4 {
		t.Errorf("the links went down %d times in %v: they throw each other out", cuts, watched)
	}
	rests := one.count("another machine uses this device's identity") + two.count("another machine uses this device's identity")
	if rests == 0 {
		t.Error("neither noticed")
	}
	t.Logf("in %v after the alarm: links down %d times, %d boards at rest, %d alarms", watched, cuts, rests, c.count(noticed))
}
