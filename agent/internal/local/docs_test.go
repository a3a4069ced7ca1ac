package local

import (
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
)

// TestDocs runs every command of docs/local-api.md, and holds its table against the routes.
func TestDocs(t *testing.T) {
	page, err := os.ReadFile("../../../docs/local-api.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range calls {
		call := strings.NewReplacer("door", "NAME", "board-abc-2", "ID", "threshold", "SETTING").Replace(c.path)
		if strings.Contains(c.path, "nonsense") || c.path == "/api/" || strings.Contains(string(page), call) {
			continue
		}
		t.Errorf("docs/local-api.md does not name %s %s", c.method, call)
	}
	if _, err := exec.LookPath("curl"); err != nil {
		if os.Getenv("COVEY_BROWSER_NEEDED") != "" {
			t.Fatal(err)
		}
		t.Skip("no curl")
	}
	h := newHouse()
	h.film(t)
	s := serve(t, Config{Board: h, Password: password, Token: "a token of programs"})
	ran := 0
	for _, block := range regexp.MustCompile("(?s)```sh\n(.*?)```").FindAllStringSubmatch(string(page), -1) {
		for command := range strings.SplitSeq(strings.TrimSpace(strings.ReplaceAll(block[1], "\\\n", "")), "\n") {
			c := exec.Command("bash", "-c", strings.Replace(strings.ReplaceAll(command, DefaultListen, s.Addr()), "curl -s", "curl -sSf", 1))
			c.Dir = t.TempDir()
			c.Env = append(os.Environ(), "TOKEN=a token of programs", "no_proxy=*")
			if out, err := c.CombinedOutput(); err != nil {
				t.Errorf("%s: %v: %s", command, err, out)
			}
			ran++
		}
	}
	if ran < 7 || h.values["door"]["threshold"] != 0.6 || len(h.regions["door"].Zones) != 1 {
		t.Errorf("%d commands; the board has %v and %v", ran, h.values["door"], h.regions["door"])
	}
}
