package main

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
)

const (
	blastBlock  = 64 << 10 // bytes of a message, as blocks have
	blastWindow = 16       // messages under way, as a fetch has at most
	blastTopic  = "covey/home/blast/block"
)

// A login is a house's user on the controller's broker.
type login struct {
	broker         string // tls://host:port
	ca             string // file
	user, password string
}

// blast sends n bytes through the broker in blocks that nothing can compress, as
// fast as the other end takes them, and returns MB a second. Nothing is checked,
// hashed or written: it is what the broker can do at most.
func (l login) blast(ctx context.Context, n int) (float64, error) {
	arrived := make(chan struct{}, 2*blastWindow)
	subscriber, err := l.connect("blast-in")
	if err != nil {
		return 0, err
	}
	defer subscriber.Disconnect(100)
	t := subscriber.Subscribe(blastTopic, 0, func(mqtt.Client, mqtt.Message) { arrived <- struct{}{} })
	if err := done(t, "subscribe"); err != nil {
		return 0, err
	}
	publisher, err := l.connect("blast-out")
	if err != nil {
		return 0, err
	}
	defer publisher.Disconnect(100)

	block := make([]byte, blastBlock)
	if _, err := rand.Read(block); err != nil {
		return 0, err
	}
	start := time.Now()
	blocks := n / blastBlock
	for sent, got := 0, 0; got < blocks; {
		if sent < blocks && sent-got < blastWindow {
			publisher.Publish(blastTopic, 0, false, block)
			sent++
			continue
		}
		select {
		case <-arrived:
			got++
		case <-time.After(10 * time.Second):
			return 0, fmt.Errorf("%d of %d blocks came through the broker", got, blocks)
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
	return float64(blocks) * blastBlock / 1e6 / time.Since(start).Seconds(), nil
}

func (l login) connect(name string) (mqtt.Client, error) {
	pem, err := os.ReadFile(l.ca)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s holds no certificate", l.ca)
	}
	c := mqtt.NewClient(mqtt.NewClientOptions().AddBroker(l.broker).SetClientID(name).SetUsername(l.user).SetPassword(l.password).
		SetTLSConfig(&tls.Config{RootCAs: roots}).SetOrderMatters(true))
	return c, done(c.Connect(), "connect to "+l.broker)
}

func done(t mqtt.Token, what string) error {
	if !t.WaitTimeout(10 * time.Second) {
		return errors.New(what + ": no answer in 10 s")
	}
	if err := t.Error(); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}
