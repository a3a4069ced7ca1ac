package main

import (
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/covey-edge/covey/agent"
)

// hidden stands where something is not shown.
const hidden = "(not shown)"

// A veil hides secrets in texts: those that are known, and what looks like one.
type veil struct {
	known []string // longest first
}

// leastSecret is the shortest secret that is looked for by itself, bytes.
const leastSecret = 4

// newVeil knows these secrets, as texts have them: plain, within JSON, within addresses.
func newVeil(secrets []string) *veil {
	v := &veil{}
	for _, s := range secrets {
		if s = strings.TrimSpace(s); len(s) < leastSecret {
			continue
		}
		quoted := quote(s)
		v.known = append(v.known, s, quoted[1:len(quoted)-1], url.QueryEscape(s), url.PathEscape(s), url.UserPassword("", s).String()[1:])
	}
	slices.SortFunc(v.known, func(a, b string) int { return len(b) - len(a) })
	v.known = slices.Compact(v.known)
	return v
}

// looks are what secrets look like, and what is shown instead.
var looks = []struct {
	like *regexp.Regexp
	show string
}{
	{regexp.MustCompile(`-----BEGIN [^-]*-----(?s:.*?)(-----END [^-]*-----|\z)`), hidden},
	{regexp.MustCompile(`covey-join-[A-Za-z0-9_-]+`), hidden},
	{regexp.MustCompile(`(?i)\b(bearer|basic)\s+[^\s"',]+`), "$1 " + hidden},
	{regexp.MustCompile(`([A-Za-z][A-Za-z0-9+.-]*://)[^\s"'<>]*@`), "$1"},
	{regexp.MustCompile(`([A-Za-z][A-Za-z0-9+.-]*://[^\s"'<>?]*)\?[^\s"'<>]*`), "$1?…"},
	{regexp.MustCompile(`(?i)((?:pass(?:word|wd|phrase)?|pwd|secret|token|api[_-]?key|credential)s?\\?["']?\s*[:=]\s*)(\\?"[^"]*"|'[^']*'|[^\s,;}"']+)`), "$1" + hidden},
}

// over is a text without them.
func (v *veil) over(text string) string {
	text = v.overKnown(text)
	for _, l := range looks {
		text = l.like.ReplaceAllString(text, l.show)
	}
	return text
}

// overKnown hides those that are known alone.
func (v *veil) overKnown(text string) string {
	for _, s := range v.known {
		text = strings.ReplaceAll(text, s, hidden)
	}
	return text
}

var secretFile = regexp.MustCompile(`(?:password|token)_file["']?\s*:\s*["']?([^"',}\n#]+)`)

var secretName = regexp.MustCompile(`(?i)pass|secret|token|key|credential|auth`)

// secretsOf are the secrets that a board has, as far as they can be read: of files beside
// the configuration and of those that it names, of the board's identity, of the
// environment.
func secretsOf(config string, raw []byte, data string, environment []string) []string {
	var all []string
	beside, _ := filepath.Glob(filepath.Join(filepath.Dir(config), "*"))  // the pattern is a good one
	for _, m := range secretFile.FindAllStringSubmatch(string(raw), -1) { // it may have mistakes
		path := strings.TrimSpace(m[1])
		if !filepath.IsAbs(path) {
			path = filepath.Join(filepath.Dir(config), path)
		}
		beside = append(beside, path)
	}
	for _, path := range beside {
		if strings.HasPrefix(filepath.Base(path), filepath.Base(config)) {
			continue
		}
		if b, err := readAtMost(path, 4096); err == nil {
			all = append(all, strings.Split(string(b), "\n")...)
		}
	}
	if b, err := readAtMost(agent.IdentityPath(data), 64<<10); err == nil {
		lines := strings.ReplaceAll(string(b), `\n`, "\n")
		all = append(all, regexp.MustCompile(`[A-Za-z0-9+/=]{32,}`).FindAllString(lines, -1)...) // of its key
	}
	for _, e := range environment {
		if name, value, _ := strings.Cut(e, "="); secretName.MatchString(name) {
			all = append(all, value)
		}
	}
	if dir := os.Getenv("CREDENTIALS_DIRECTORY"); dir != "" {
		given, _ := filepath.Glob(filepath.Join(dir, "*"))
		for _, path := range given {
			if b, err := readAtMost(path, 4096); err == nil {
				all = append(all, string(b))
			}
		}
	}
	return all
}
