package mjpeg

import (
	"crypto/md5"
	"crypto/sha256"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/covey-edge/covey/hal"
)

// The example of RFC 7616, 3.9.1.
func TestDigest(t *testing.T) {
	headers := []string{
		`Digest realm="http-auth@example.org", qop="auth, auth-int", algorithm=SHA-256, nonce="7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v", opaque="FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS"`,
		`Digest realm="http-auth@example.org", qop="auth, auth-int", algorithm=MD5, nonce="7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v", opaque="FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS"`,
	}
	for i, want := range []string{"753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1", "8ca523f5e9506fed4657c9700eebdbec"} {
		c := choose(headers[i:])
		c.asked = 1
		got := c.digest(login{"Mufasa", "Circle of Life"}, "GET", "/dir/index.html", "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ")
		if !strings.Contains(got, `response="`+want+`"`) || !strings.Contains(got, `nc=00000001`) || !strings.Contains(got, `opaque="FQhe/`) {
			t.Errorf("got %s\nwant response %s", got, want)
		}
	}
	// RFC 2617, 3.5 without qop is RFC 2069.
	old := choose([]string{`Digest realm="testrealm@host.com", nonce="dcd98b7102dd2f0e8b11d0f600bfb0c093"`})
	if got := old.digest(login{"Mufasa", "Circle Of Life"}, "GET", "/dir/index.html", ""); !strings.Contains(got, `response="670fd8c2df070c60b045671b8b24ff02"`) || strings.Contains(got, "qop") {
		t.Errorf("got %s", got)
	}
}

func TestChoose(t *testing.T) {
	for _, tt := range []struct{ header, want string }{
		{``, ""},
		{`Basic realm="x"`, "basic x"},
		{`Basic realm="a \"b\", Digest", Digest realm=y, nonce="n"`, "digest y"},
		{`Digest realm="y", nonce="n", Basic realm=x`, "digest y"},
		{`Newauth realm="apps", type=1, title="Login", Basic realm="simple"`, "basic simple"},
		{`Digest realm="y"`, ""}, // no nonce
		{`Digest realm="y", nonce="n", algorithm=SHA-512-256`, ""},
		{`Negotiate`, ""},
		{`Basic realm="open`, "basic "},
		{`="x"`, ""},
	} {
		got := ""
		if c := choose([]string{tt.header}); c != nil {
			got = c.scheme + " " + c.realm
		}
		if got != tt.want {
			t.Errorf("%s: got %q, want %q", tt.header, got, tt.want)
		}
	}
}

// digestServer lets those through who answer as RFC 7616 says. Every nonce is good
// for three requests.
func digestServer(user, password, algorithm string, next http.Handler) http.HandlerFunc {
	h := func(s string) string {
		if strings.HasPrefix(algorithm, "SHA-256") {
			return fmt.Sprintf("%x", sha256.Sum256([]byte(s)))
		}
		return fmt.Sprintf("%x", md5.Sum([]byte(s)))
	}
	served := 0
	return func(w http.ResponseWriter, r *http.Request) {
		nonce := fmt.Sprint("nonce", served/3)
		all := parseChallenges(r.Header.Get("Authorization"))
		given := map[string]string{}
		for _, field := range strings.Split(strings.TrimPrefix(r.Header.Get("Authorization"), "Digest "), ", ") {
			name, v, _ := strings.Cut(field, "=")
			given[name] = strings.Trim(v, `"`)
		}
		secret := h(user + ":the realm:" + password)
		if strings.HasSuffix(algorithm, "-sess") {
			secret = h(secret + ":" + nonce + ":" + given["cnonce"])
		}
		want := h(secret + ":" + nonce + ":" + given["nc"] + ":" + given["cnonce"] + ":auth:" + h(r.Method+":"+r.URL.RequestURI()))
		if len(all) != 1 || given["response"] != want || given["uri"] != r.URL.RequestURI() {
			w.Header().Add("WWW-Authenticate", `Basic realm="the realm"`)
			w.Header().Add("WWW-Authenticate", fmt.Sprintf(`Digest realm="the realm", nonce=%q, qop="auth", algorithm=%s`, nonce, algorithm))
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		served++
		next.ServeHTTP(w, r)
	}
}

func TestAuthentication(t *testing.T) {
	c := &camera{t: t, every: 5 * time.Millisecond}
	servers := map[string]http.Handler{
		"basic": http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if user, password, ok := r.BasicAuth(); !ok || user != "admin" || password != "hu:sh" {
				w.Header().Set("WWW-Authenticate", `Basic realm="cam"`)
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			c.ServeHTTP(w, r)
		}),
		"MD5":     digestServer("admin", "hu:sh", "MD5", c),
		"SHA-256": digestServer("admin", "hu:sh", "SHA-256", c),
		"session": digestServer("admin", "hu:sh", "SHA-256-sess", c),
	}
	for name, h := range servers {
		t.Run(name, func(t *testing.T) {
			s := serve(t, h)
			for _, config := range []Config{
				{URL: s.URL + "/v?a=b", User: "admin", Password: "hu:sh"},
				{URL: strings.Replace(s.URL, "http://", "http://admin:hu%3Ash@", 1)},
				{URL: s.URL + "/snapshot.jpg", User: "admin", Password: "hu:sh", FPS: 500}, // past what a nonce is good for
			} {
				source := open(t, config)
				var f hal.Frame
				for range 8 {
					if err := source.Next(t.Context(), &f); err != nil {
						t.Fatal(err)
					}
				}
				source.Close()
			}
			for _, config := range []Config{
				{URL: s.URL},
				{URL: s.URL, User: "admin", Password: "hush2"},
				{URL: strings.Replace(s.URL, "http://", "http://admin:hush2@", 1)},
			} {
				err := fails(t, config)
				if strings.Contains(err.Error(), "hu:sh") || strings.Contains(err.Error(), "hush2") || !strings.Contains(err.Error(), "user and password") {
					t.Errorf("got %v", err)
				}
			}
		})
	}
	s := serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("WWW-Authenticate", "Negotiate")
		w.WriteHeader(http.StatusUnauthorized)
	}))
	if err := fails(t, Config{URL: s.URL, User: "admin"}); !strings.Contains(err.Error(), "basic or digest") {
		t.Errorf("got %v", err)
	}
}

// FuzzChallenge: whatever a server asks, the answer is one header line.
func FuzzChallenge(f *testing.F) {
	f.Add(`Digest realm="r", nonce="n", qop="auth", algorithm=MD5-sess, opaque="\"", Basic realm=x`, "user")
	f.Add(`Basic realm="`, `a"b`)
	f.Fuzz(func(t *testing.T, header, user string) {
		c := choose([]string{header})
		if c == nil {
			return
		}
		if c.strength() == 0 {
			t.Fatal("a challenge that cannot be answered")
		}
		answer := c.answer(login{user, "p"}, "GET", "/")
		if !strings.ContainsAny(header+user, "\r\n") && strings.ContainsAny(answer, "\r\n") {
			t.Fatalf("answer %q", answer)
		}
	})
}
