package mqtt

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"
)

// dial opens what MQTT is spoken on: TCP, TLS, or a WebSocket.
func dial(ctx context.Context, cfg *Config, u *url.URL) (net.Conn, error) {
	var tc *tls.Config
	if cfg.TLS != nil {
		tc = cfg.TLS()
	}
	switch u.Scheme {
	case "mqtt":
		return cfg.Dial(ctx, "tcp", hostPort(u, "1883"))
	case "mqtts":
		return dialTLS(ctx, cfg, tc, hostPort(u, "8883"), http.ProxyFromEnvironment)
	}
	return dialWebsocket(ctx, u, tc)
}

// dialWebsocket returns when ctx ends, which paho does not know of: its dial then
// ends by its own timeout, with nobody waiting for it.
func dialWebsocket(ctx context.Context, u *url.URL, tc *tls.Config) (net.Conn, error) {
	deadline, _ := ctx.Deadline()
	plain := *u
	plain.User = nil
	type answer struct {
		conn net.Conn
		err  error
	}
	dialled := make(chan answer)
	go func() {
		c, err := paho.NewWebsocket(plain.String(), tc, time.Until(deadline), nil, nil)
		select {
		case dialled <- answer{c, err}:
		case <-ctx.Done():
			if err == nil {
				c.Close()
			}
		}
	}()
	select {
	case a := <-dialled:
		return a.conn, a.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func hostPort(u *url.URL, port string) string {
	if p := u.Port(); p != "" {
		port = p
	}
	return net.JoinHostPort(u.Hostname(), port)
}

func dialTLS(ctx context.Context, cfg *Config, tc *tls.Config, addr string, proxy func(*http.Request) (*url.URL, error)) (net.Conn, error) {
	via, err := proxy(&http.Request{URL: &url.URL{Scheme: "https", Host: addr}})
	if err != nil {
		return nil, fmt.Errorf("proxy for %s: %w", addr, err)
	}
	var raw net.Conn
	if via == nil {
		raw, err = cfg.Dial(ctx, "tcp", addr)
	} else {
		raw, err = dialProxy(ctx, cfg, via, addr)
	}
	if err != nil {
		return nil, err
	}
	if tc == nil {
		tc = &tls.Config{}
	}
	if tc.ServerName == "" && !tc.InsecureSkipVerify {
		tc = tc.Clone()
		tc.ServerName, _, _ = net.SplitHostPort(addr)
	}
	c := tls.Client(raw, tc)
	if err := c.HandshakeContext(ctx); err != nil {
		raw.Close()
		return nil, fmt.Errorf("tls with %s: %w", addr, err)
	}
	return c, nil
}

// dialProxy asks an HTTP proxy for a tunnel.
func dialProxy(ctx context.Context, cfg *Config, via *url.URL, addr string) (net.Conn, error) {
	if via.Scheme != "http" {
		return nil, fmt.Errorf("proxy %s: only http:// proxies can be used", via.Redacted())
	}
	c, err := cfg.Dial(ctx, "tcp", hostPort(via, "80"))
	if err != nil {
		return nil, fmt.Errorf("proxy %s: %w", via.Redacted(), err)
	}
	if deadline, ok := ctx.Deadline(); ok {
		c.SetDeadline(deadline)
	}
	req := &http.Request{Method: http.MethodConnect, URL: &url.URL{Opaque: addr}, Host: addr, Header: http.Header{}}
	if u := via.User; u != nil {
		pass, _ := u.Password()
		req.Header.Set("Proxy-Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(u.Username()+":"+pass)))
	}
	if err := tunnel(c, req); err != nil {
		c.Close()
		return nil, fmt.Errorf("proxy %s to %s: %w", via.Redacted(), addr, err)
	}
	c.SetDeadline(time.Time{})
	return c, nil
}

func tunnel(c net.Conn, req *http.Request) error {
	if err := req.Write(c); err != nil {
		return err
	}
	// In TLS the client speaks first, so nothing behind the answer can be lost in
	// the reader's buffer.
	r := bufio.NewReaderSize(c, 4<<10)
	resp, err := http.ReadResponse(r, req)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return errors.New(resp.Status)
	}
	return nil
}
