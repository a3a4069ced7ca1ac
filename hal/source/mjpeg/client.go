package mjpeg

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"os"
	"strings"

	"github.com/covey-edge/covey/hal"
)

// Bounds of what a camera may send besides pictures.
const (
	maxHeader    = 64 << 10
	maxRedirects = 5
	maxRefusal   = 64 << 10 // of the body of an answer that says no, to keep the connection
)

// A client asks one camera.
type client struct {
	http      *http.Client
	url       *url.URL // without user and password
	name      string   // for people: without secrets
	login     login
	challenge *challenge // what the camera wants; nil: nothing yet
}

func newClient(c Config) (*client, error) {
	u, err := url.Parse(c.URL)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" {
		// What is wrong with it is not said: it may be the password.
		return nil, &hal.Error{Code: hal.CodeSource, Text: "address of the camera is no URL: write it as http://192.168.1.20/video.mjpg"}
	}
	l := login{user: c.User, password: c.Password}
	if l.user == "" && u.User != nil {
		l.user = u.User.Username()
		l.password, _ = u.User.Password()
	}
	u.User = nil
	k := &client{url: u, name: u.Scheme + "://" + u.Host + u.Path, login: l}
	if strings.ContainsFunc(l.user+l.password, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return nil, k.refuse("user or password has a control character in it: write it without a line end")
	}
	roots, err := k.roots(c.CAFile)
	if err != nil {
		return nil, err
	}
	k.http = &http.Client{
		CheckRedirect: sameHost,
		Transport: &http.Transport{
			// No proxy: cameras are in the house.
			TLSClientConfig:        &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
			MaxResponseHeaderBytes: maxHeader,
			MaxConnsPerHost:        2,
			DisableCompression:     true,
		},
	}
	return k, nil
}

// roots reads the certificates of a file; nil: those of the system.
func (k *client) roots(file string) (*x509.CertPool, error) {
	if file == "" {
		return nil, nil
	}
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, k.refuse(fmt.Sprintf("CA file: %v", err))
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, k.refuse(fmt.Sprintf("CA file %s has no certificate in it: give a PEM file", file))
	}
	return pool, nil
}

func (k *client) close() { k.http.CloseIdleConnections() }

func (k *client) refuse(text string) *hal.Error {
	return &hal.Error{Code: hal.CodeSource, Text: fmt.Sprintf("camera %s: %s", k.name, text)}
}

// errElsewhere is a redirection that is not followed.
type errElsewhere struct{ to string }

func (e errElsewhere) Error() string {
	return "it sends us to " + e.to + ", which is another place: if that is right, write it into the configuration"
}

// sameHost lets a camera redirect within itself alone: it could name any address of
// the house otherwise.
func sameHost(r *http.Request, via []*http.Request) error {
	from := via[0].URL
	switch {
	case len(via) > maxRedirects:
		return errors.New("it redirects without end: check the path")
	case r.URL.Hostname() != from.Hostname(), from.Scheme == "https" && r.URL.Scheme != "https":
		return errElsewhere{r.URL.Scheme + "://" + r.URL.Host}
	}
	return nil
}

// get asks once, and once more when the camera wants to know who asks. The answer
// has pictures.
func (k *client) get(ctx context.Context) (*http.Response, error) {
	for try := 0; ; try++ {
		r, err := k.send(ctx)
		if err != nil {
			return nil, err
		}
		if r.StatusCode == http.StatusOK {
			if err := k.pictures(r); err != nil {
				r.Body.Close()
				return nil, err
			}
			return r, nil
		}
		_, _ = io.Copy(io.Discard, io.LimitReader(r.Body, maxRefusal))
		r.Body.Close()
		if r.StatusCode != http.StatusUnauthorized {
			return nil, k.refuse(fmt.Sprintf("it answers %d %s: check the path", r.StatusCode, http.StatusText(r.StatusCode)))
		}
		k.challenge = choose(r.Header.Values("Www-Authenticate"))
		switch {
		case k.login.user == "":
			return nil, k.refuse("it wants to know who asks: set user and password")
		case k.challenge == nil:
			return nil, k.refuse("it wants an authentication that is not known here: set the camera to basic or digest")
		// Of a nonce that has grown old not every camera says so; a new one has to do.
		case try > 0:
			return nil, k.refuse(fmt.Sprintf("it refuses user %q: check user and password", k.login.user))
		}
		k.url = r.Request.URL // what a digest is made for is where it is sent to
	}
}

func (k *client) send(ctx context.Context) (*http.Response, error) {
	q, err := http.NewRequestWithContext(ctx, http.MethodGet, k.url.String(), nil)
	if err != nil {
		return nil, err
	}
	q.Header.Set("User-Agent", "covey")
	if k.challenge != nil {
		q.Header.Set("Authorization", k.challenge.answer(k.login, q.Method, q.URL.RequestURI()))
	}
	return k.http.Do(q)
}

// pictures refuses what is none, such as the page that shows the video.
func (k *client) pictures(r *http.Response) error {
	given := r.Header.Get("Content-Type")
	t, _, _ := mime.ParseMediaType(given)
	switch {
	case t == "", t == "application/octet-stream", strings.HasPrefix(t, "multipart/"), strings.HasPrefix(t, "image/"), strings.HasPrefix(t, "video/"):
		return nil
	}
	return k.refuse(fmt.Sprintf("it answers with %.60q, which is no picture: give the address of the video itself, often …/video.mjpg", given))
}

// explain turns an error of the network into one with a code. The standard
// library's own errors name the whole address, with what may be secret in it.
func (k *client) explain(err error) error {
	var e *hal.Error
	if errors.As(err, &e) {
		return err
	}
	text := bare(err).Error()
	var unknown x509.UnknownAuthorityError
	switch {
	case errors.As(err, &unknown):
		text += ": name the file of its CA"
	case !errors.As(err, new(errElsewhere)):
		text += ": check that it is on, and its address"
	}
	e = k.refuse(text)
	e.Err = bare(err)
	return e
}

// bare is an error without the address that net/http puts before it, or the code
// that we did.
func bare(err error) error {
	var u *url.Error
	var e *hal.Error
	switch {
	case errors.As(err, &u):
		return u.Err
	case errors.As(err, &e):
		return errors.New(e.Text)
	}
	return err
}
