package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
)

// A program is one that runs beside the bench.
type program struct {
	cmd   *exec.Cmd
	ended chan struct{} // closed when it has ended
	mu    sync.Mutex
	text  bytes.Buffer // of both its outputs, guarded by mu
}

// startProgram starts a command; stop ends it.
func startProgram(ctx context.Context, words ...string) (*program, error) {
	p := &program{cmd: exec.CommandContext(ctx, words[0], words[1:]...), ended: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = p, p
	p.cmd.Cancel = func() error { return p.cmd.Process.Signal(syscall.SIGTERM) }
	p.cmd.WaitDelay = 10 * time.Second
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	// Waited for by stop.
	go func() {
		defer close(p.ended)
		_ = p.cmd.Wait()
	}()
	return p, nil
}

// Write keeps what the program says.
func (p *program) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.text.Write(b)
}

// all is what the program has said so far.
func (p *program) all() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.text.String()
}

// said is the end of it.
func (p *program) said() string {
	s := p.all()
	return s[max(0, len(s)-2000):]
}

// stop asks the program to end and waits until it has.
func (p *program) stop() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.ended:
	case <-time.After(10 * time.Second):
		_ = p.cmd.Process.Kill()
		<-p.ended
	}
}

// rss is the program's resident memory, MB; 0 once it has ended.
func (p *program) rss() float64 {
	status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kb, _ := strconv.ParseFloat(strings.Fields(rest)[0], 64)
			return kb * 1024 / 1e6
		}
	}
	return 0
}

// A mosquitto is a broker of the bench's own.
type mosquitto struct {
	*program
	address string
}

func startMosquitto(ctx context.Context, folder string) (*mosquitto, error) {
	address, err := freeAddress()
	if err != nil {
		return nil, err
	}
	_, port, _ := net.SplitHostPort(address)
	config := folder + "/mosquitto.conf"
	text := "listener " + port + " 127.0.0.1\nallow_anonymous true\nset_tcp_nodelay true\npersistence false\nmax_queued_messages 0\n"
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return nil, err
	}
	p, err := startProgram(ctx, "mosquitto", "-c", config)
	if err != nil {
		return nil, fmt.Errorf("%w: run: apt-get install mosquitto", err)
	}
	m := &mosquitto{p, address}
	return m, waitFor(ctx, 10*time.Second, "mosquitto", p, func() bool { return reachable(address) })
}

// freeAddress is one that nobody listened on a moment ago.
func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}

func reachable(address string) bool {
	c, err := net.DialTimeout("tcp", address, time.Second)
	if err == nil {
		c.Close()
	}
	return err == nil
}

// waitFor asks again until the answer is yes. It ends with the program.
func waitFor(ctx context.Context, limit time.Duration, what string, p *program, yes func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for !yes() {
		select {
		case <-time.After(20 * time.Millisecond):
		case <-p.ended:
			return fmt.Errorf("%s ended: %s", what, p.said())
		case <-ctx.Done():
			return fmt.Errorf("%s: %w: %s", what, ctx.Err(), p.said())
		}
	}
	return nil
}

// A result is what the bench reads of one.
type result struct {
	Seq   uint64    `json:"seq"`
	TS    time.Time `json:"ts"`
	Model struct {
		Ver string `json:"ver"`
	} `json:"model"`
	Items []struct {
		ID int `json:"id"`
	} `json:"items"`
	came time.Time
}

// results subscribes to results. The channel holds room of them; what does not
// fit is dropped.
func (m *mosquitto) results(topic string, room int) (<-chan result, func(), error) {
	c := mqtt.NewClient(mqtt.NewClientOptions().AddBroker("tcp://" + m.address).SetClientID("bench-" + strconv.FormatInt(time.Now().UnixNano(), 36)))
	if t := c.Connect(); !t.WaitTimeout(10*time.Second) || t.Error() != nil {
		return nil, nil, fmt.Errorf("connect to mosquitto: %v", t.Error())
	}
	found := make(chan result, room)
	t := c.Subscribe(topic, 1, func(_ mqtt.Client, msg mqtt.Message) {
		r := result{came: time.Now()}
		if json.Unmarshal(msg.Payload(), &r) == nil {
			select {
			case found <- r:
			default:
			}
		}
	})
	if !t.WaitTimeout(10*time.Second) || t.Error() != nil {
		return nil, nil, fmt.Errorf("subscribe to %s: %v", topic, t.Error())
	}
	return found, func() { c.Disconnect(100) }, nil
}
