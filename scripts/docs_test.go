package scripts

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// A block is one fenced block of a document.
type block struct {
	file string
	line int
	info string // what stands behind the fence: "sh", "sh run", "yaml agent"
	text string
}

// TestDocs holds the documents against the programs: links lead somewhere, every
// command and flag that is shown exists, "sh run" blocks run, "sh home" blocks run beside a
// broker with a board at it, "json" blocks are JSON, "yaml agent" blocks are
// configurations that the agent takes, "yaml policy" and "yaml apply" blocks files that
// covey takes, and "yaml controller" blocks configurations that covey-fleet takes.
func TestDocs(t *testing.T) {
	files := documents(t)
	t.Run("links", func(t *testing.T) { checkLinks(t, files) })

	var blocks []block
	for _, f := range files {
		blocks = append(blocks, fenced(t, f)...)
	}
	bin, err := filepath.Abs("../bin")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(bin + "/covey-agent"); err != nil {
		t.Skip("no programs here: run scripts/setup")
	}
	for _, b := range blocks {
		switch {
		case b.info == "json":
			if !json.Valid([]byte(b.text)) {
				t.Errorf("%s:%d: not JSON", b.file, b.line)
			}
		case b.info == "sh" || b.info == "sh run":
			for _, words := range commands(b.text) {
				checkCommand(t, b, bin, words)
			}
		case b.info == "yaml agent":
			checkConfig(t, b, bin)
		case b.info == "yaml policy":
			checkFile(t, b, "not logged in", bin+"/covey", "rollout", "plan", "all", "cam=birds", "--policy")
		case b.info == "yaml apply":
			checkFile(t, b, "not logged in", bin+"/covey", "apply", "--dry-run", "-f")
		case b.info == "yaml controller":
			checkFile(t, b, "/dev/null", bin+"/covey-fleet", "serve", "--data", "/dev/null", "--config")
		}
		if b.info == "sh home" {
			t.Run(fmt.Sprintf("%s:%d", filepath.Base(b.file), b.line), func(t *testing.T) { runAtHome(t, b) })
		}
		if b.info == "sh run" {
			t.Run(filepath.Base(b.file), func(t *testing.T) { runBlock(t, b) })
		}
	}
}

// TestCodes holds the list of error codes against the operators' page.
func TestCodes(t *testing.T) {
	source, err := os.ReadFile("../hal/errors.go")
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile("../docs/operator.md")
	if err != nil {
		t.Fatal(err)
	}
	codes := regexp.MustCompile(`"(E_[A-Z_]+)"`).FindAllStringSubmatch(string(source), -1)
	if len(codes) < 20 {
		t.Fatalf("found only %d codes", len(codes))
	}
	for _, c := range codes {
		if !strings.Contains(string(page), "`"+c[1]+"`") {
			t.Errorf("%s is not explained in docs/operator.md", c[1])
		}
	}
}

// TestSourceKeys holds the owners' table of sources against the configuration: a row
// for each type, and every key in it, or in the line about windows.
func TestSourceKeys(t *testing.T) {
	source, err := os.ReadFile("../agent/config_source.go")
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile("../docs/owner.md")
	if err != nil {
		t.Fatal(err)
	}
	types := regexp.MustCompile(`(?m)^\t"(\w+)": +\{"([a-z_ ]+)", "[a-z ]*"\},$`).FindAllStringSubmatch(string(source), -1)
	if len(types) < 13 {
		t.Fatalf("found only %d types of sources", len(types))
	}
	windows := regexp.MustCompile(`(?m)^Windows: .*\n.*$`).FindString(string(page))
	for _, typ := range types {
		row := regexp.MustCompile("(?m)^\\| `" + typ[1] + "` \\|.*$").FindString(string(page))
		if strings.Contains(row, "and windows") {
			row += windows
		}
		for key := range strings.FieldsSeq(typ[2]) {
			if !strings.Contains(row, "`"+key+"`") {
				t.Errorf("docs/owner.md does not name %s of a source of type %s", key, typ[1])
			}
		}
	}
}

// TestPipelineKeys holds the owners' page against the keys of a pipeline.
func TestPipelineKeys(t *testing.T) {
	source, err := os.ReadFile("../agent/config.go")
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile("../docs/owner.md")
	if err != nil {
		t.Fatal(err)
	}
	_, body, _ := strings.Cut(string(source), ") pipelineFields(")
	body, _, _ = strings.Cut(body, "\n}\n")
	keys := regexp.MustCompile(`(?m)^\t\t"(\w+)": `).FindAllStringSubmatch(body, -1)
	if len(keys) < 10 {
		t.Fatalf("found only %d keys", len(keys))
	}
	for _, k := range keys {
		if k[1] != "source" && !strings.Contains(string(page), "`"+k[1]+"`") {
			t.Errorf("docs/owner.md does not name %s of a pipeline", k[1])
		}
	}
}

// TestDocsCatch shows that the test sees a command, a flag and a link that are not.
func TestDocsCatch(t *testing.T) {
	text := "covey-agent check --config a.yaml # why\n./scripts/demo --keep \\\n  --more\nx=1 covey device list | head && covey login\n"
	got := commands(text)
	want := [][]string{{"covey-agent", "check", "--config", "a.yaml"}, {"demo", "--keep", "--more"}, {"covey", "device", "list"}, {"covey", "login"}}
	if !slices.EqualFunc(got, want, slices.Equal) {
		t.Errorf("commands: got %q", got)
	}
	page := filepath.Join(t.TempDir(), "page.md")
	if err := os.WriteFile(page, []byte("# A page\n## Shadow runs, `x`\ntext\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := anchors(t, page); !slices.Equal(got, []string{"a-page", "shadow-runs-x"}) {
		t.Errorf("anchors: got %q", got)
	}
	help := func(path []string) string {
		switch strings.Join(path, " ") {
		case "covey", "covey wrong":
			return "Usage:\n  covey [command]\n"
		case "covey list", "covey list kitchen":
			return "Usage:\n  covey list [flags]\n\nFlags:\n      --json   for programs\n"
		}
		return ""
	}
	for _, c := range []struct{ command, fault string }{
		{"covey list --json", ""},
		{"covey list kitchen --json=true", ""},
		{"covey list --jsn", "no flag --jsn"},
		{"covey wrong", "no command wrong"},
	} {
		if got := fault(strings.Fields(c.command), help); got != c.fault {
			t.Errorf("%s: got %q, want %q", c.command, got, c.fault)
		}
	}
}

func documents(t *testing.T) []string {
	t.Helper()
	var files []string
	for _, glob := range []string{"../*.md", "../docs/*.md"} {
		found, err := filepath.Glob(glob)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, found...)
	}
	if len(files) < 8 {
		t.Fatalf("found only %q", files)
	}
	return files
}

var link = regexp.MustCompile(`\]\(([^)#]*)(?:#([^)]*))?\)`)

func checkLinks(t *testing.T, files []string) {
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range link.FindAllStringSubmatch(string(text), -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			to := f
			if m[1] != "" {
				to = filepath.Join(filepath.Dir(f), m[1])
			}
			if _, err := os.Stat(to); err != nil {
				t.Errorf("%s: link to %s leads nowhere", f, m[1])
			} else if m[2] != "" && !slices.Contains(anchors(t, to), m[2]) {
				t.Errorf("%s: %s has no heading for #%s", f, to, m[2])
			}
		}
	}
}

var (
	heading = regexp.MustCompile(`(?m)^#+ (.*)$`)
	unsaid  = regexp.MustCompile(`[^\p{L}\p{N} _-]`)
)

// anchors is what links name the headings of a document by.
func anchors(t *testing.T, file string) (list []string) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range heading.FindAllStringSubmatch(string(text), -1) {
		list = append(list, strings.ReplaceAll(unsaid.ReplaceAllString(strings.ToLower(m[1]), ""), " ", "-"))
	}
	return list
}

// fenced is the fenced blocks of a document.
func fenced(t *testing.T, file string) (blocks []block) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var open *block
	n := 0
	for line := range strings.Lines(string(text)) {
		n++
		info, fence := strings.CutPrefix(strings.TrimSpace(line), "```")
		switch {
		case fence && open == nil:
			open = &block{file: file, line: n, info: info}
		case fence:
			blocks = append(blocks, *open)
			open = nil
		case open != nil:
			open.text += line
		}
	}
	if open != nil {
		t.Errorf("%s:%d: fence is not closed", file, open.line)
	}
	return blocks
}

var program = regexp.MustCompile(`^(?:"?\$COVEY_BIN"?/|bin/)?(covey|covey-agent|covey-fleet)$|^\./scripts/([a-z0-9]+)$`)

var separators = regexp.MustCompile(`\||&&|;`)

// commands is the words of every command of ours in a shell text.
func commands(text string) (found [][]string) {
	text = strings.ReplaceAll(text, "\\\n", " ")
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, " #")
		for _, part := range separators.Split(line, -1) {
			words := strings.Fields(part)
			for i, w := range words {
				if m := program.FindStringSubmatch(w); m != nil {
					found = append(found, append([]string{m[1] + m[2]}, words[i+1:]...))
					break
				}
			}
		}
	}
	return found
}

// checkCommand asks the program itself whether a command and its flags exist.
func checkCommand(t *testing.T, b block, bin string, words []string) {
	t.Helper()
	if !strings.HasPrefix(words[0], "covey") {
		if _, err := os.Stat("../scripts/" + words[0]); err != nil {
			t.Errorf("%s:%d: there is no scripts/%s", b.file, b.line, words[0])
		}
		return
	}
	help := func(path []string) string {
		out, _ := exec.Command(filepath.Join(bin, path[0]), append(path[1:len(path):len(path)], "--help")...).CombinedOutput()
		return string(out)
	}
	if why := fault(words, help); why != "" {
		t.Errorf("%s:%d: %s: %s", b.file, b.line, strings.Join(words, " "), why)
	}
}

// fault follows the words down the help pages of a program and says what is
// not there.
func fault(words []string, help func(path []string) string) string {
	path, page := words[:1], help(words[:1])
	for _, w := range words[1:] {
		if strings.HasPrefix(w, "-") || !strings.Contains(page, "[command]") {
			break
		}
		deeper := append(path[:len(path):len(path)], w)
		below := help(deeper)
		if !strings.Contains(below, "\n  "+strings.Join(deeper, " ")) {
			return "no command " + w
		}
		path, page = deeper, below
	}
	for _, w := range words[len(path):] {
		flag, _, _ := strings.Cut(w, "=")
		if strings.HasPrefix(flag, "--") && !regexp.MustCompile(regexp.QuoteMeta(flag)+`\b`).MatchString(page) {
			return "no flag " + flag
		}
	}
	return ""
}

// checkConfig lets the agent check a configuration.
func checkConfig(t *testing.T, b block, bin string) {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(dir, "agent.yaml")
	for _, err := range []error{
		os.WriteFile(path, []byte(b.text), 0o600),
		os.Mkdir(dir+"/pictures", 0o700),
		os.WriteFile(dir+"/camera.password", []byte("secret\n"), 0o600),
		os.Symlink(os.Getenv("COVEY_MODELS")+"/label_image/mobilenet_quant_v1_224.tflite", dir+"/birds.tflite"),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if out, err := exec.Command(bin+"/covey-agent", "check", "--config", path).CombinedOutput(); err != nil {
		t.Errorf("%s:%d: %v: %s", b.file, b.line, err, out)
	}
}

// checkFile lets a program read a file. It reads it before it needs what is not here: a
// controller, or a folder for its data. then is what it says of that.
func checkFile(t *testing.T, b block, then, program string, args ...string) {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(dir, "file.yaml")
	for name, text := range map[string]string{path: b.text, dir + "/chat.secret": strings.Repeat("5", 64)} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command(program, append(args, path)...)
	cmd.Env = []string{"HOME=" + dir, "XDG_CONFIG_HOME=" + dir}
	if out, _ := cmd.CombinedOutput(); !strings.Contains(string(out), then) {
		t.Errorf("%s:%d: %s", b.file, b.line, out)
	}
}

// runBlock runs a block as a person would who stands at the top of the checkout.
func runBlock(t *testing.T, b block) {
	cmd := exec.Command("bash", "-euo", "pipefail", "-c", b.text)
	cmd.Dir = ".."
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%s:%d: %v\n%s", b.file, b.line, err, out)
	}
}
