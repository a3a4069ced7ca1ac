// Package arch holds the arrows of the house: which room may import which, and
// which room a dependency lives in. The tables are policy. A red line here means
// that the code takes a way it should not; change a table only when the
// architecture changes, in a commit that says so.
//
// Imports are read with go/parser from the files themselves. A test that asks
// `go list` would be cached by the go command and pass for ever.
package arch

import (
	"os"
	"testing"
)

const module = "github.com/covey-edge/covey"

// top is every folder that may stand at the top. The fixed rooms first.
var top = []string{
	"agent", "fleet", "hal", "firmware", "scripts",
	"docs", ".ci", ".git", ".github",
	"bin", "dist", ".cache", // made by scripts/setup and scripts/package, ignored by git
}

// leaves import the standard library alone, and everything may import them.
var leaves = []string{"hal", "fleet/wire"}

// arrows is one line a room: what its packages may import besides the leaves.
// The first line that fits a package counts. "x/..." is x and all below it, and
// the packages of such a room may import each other.
var arrows = []struct{ room, may string }{
	{"hal", ""},
	{"fleet/wire", ""},

	// The hardware layer: nothing in it knows of agents or fleets.
	{"hal/haltest/...", ""},
	{"hal/modelfile", ""},
	{"hal/vision", ""},
	{"hal/task", "hal/modelfile hal/vision"},
	{"hal/sketch", ""},
	{"hal/signal", ""},
	{"hal/ladder", "hal/modelfile"},
	{"hal/jpeg", "hal/vision"},
	{"hal/source/...", "hal/signal hal/vision"},
	{"hal/runner/proto", ""},
	{"hal/runner/sandbox", ""},
	{"hal/runner", "hal/runner/proto hal/runner/sandbox"},
	{"hal/answers", "hal/signal"},
	{"hal/tflite", "hal/runner/proto"},
	{"hal/onnx", "hal/runner/proto hal/modelfile"},
	{"hal/cmd/covey-runner-tflite", "hal/tflite hal/runner/proto"},
	{"hal/cmd/covey-runner-onnx", "hal/onnx hal/runner/proto"},
	{"hal/cmd/covey-runner-jpeg", "hal/jpeg hal/runner/proto"},

	// What both ends share.
	{"fleet/release", "hal/modelfile"},
	{"fleet/trust", "fleet/blob"},
	{"fleet/window", ""},
	{"fleet/blob/...", ""},
	{"fleet/link/linktest", "fleet/link/... hal/haltest/port"},
	{"fleet/link/...", ""},

	// The agent: rooms beside each other know nothing of each other; the package
	// agent brings them together.
	{"agent/internal/update", "agent/internal/pulse agent/internal/slots fleet/blob fleet/release fleet/window"},
	{"agent/internal/slots", "fleet/blob fleet/release hal/sketch"},
	{"agent/internal/pulse", ""}, // pure: every loop says by it that it goes on
	{"agent/internal/pipeline", "agent/internal/event agent/internal/pulse hal/task hal/vision"},
	{"agent/internal/uplink", "agent/internal/event agent/internal/pulse fleet/blob fleet/blob/pack"},
	{"agent/internal/local", ""},
	{"agent/internal/health", "agent/internal/pulse firmware hal/sketch"},
	{"agent/internal/event", ""},
	{"agent/internal/picture", "agent/internal/annotate hal/vision"},
	{"agent/internal/agreement", "hal/task"},
	{"agent/internal/homeassistant", ""},
	{"agent/internal/doctor", "firmware hal/modelfile"},
	{"agent/internal/identity", "fleet/blob"},
	{"agent/cmd/covey-agent", "agent agent/internal/... hal/... fleet/blob fleet/link/mqtt fleet/release firmware"},
	{"agent", "agent/internal/... hal/... fleet/blob fleet/link/mqtt fleet/release fleet/trust firmware"},

	// Programs under test, seen from outside.
	{"fleet/sim", "agent fleet fleet/blob fleet/release fleet/link/... firmware hal/haltest"},
	{"fleet/e2e", "agent fleet fleet/blob/... fleet/release fleet/link/... hal/... firmware"},

	// The controller, from the ground up.
	{"fleet/internal/store", ""},
	{"fleet/internal/audit", "fleet/internal/store"},
	{"fleet/internal/auth", "fleet/internal/store"},
	{"fleet/internal/group", ""}, // pure: the command line completes and explains with it
	{"fleet/internal/policy", "fleet/window"},
	{"fleet/internal/registry", "fleet/internal/auth fleet/internal/group fleet/internal/store fleet/blob fleet/blob/pack fleet/release fleet/trust fleet/window"},
	{"fleet/internal/rollout", "fleet/internal/group fleet/internal/policy fleet/internal/registry fleet/internal/store fleet/blob fleet/release fleet/window"},
	{"fleet/internal/broker", "fleet/internal/auth fleet/internal/registry fleet/link/mem"},
	{"fleet/internal/api/v1", "fleet/internal/policy"},
	{"fleet/internal/...", "fleet/blob fleet/release fleet/trust fleet/window hal/modelfile"},
	{"fleet/cmd/covey-fleet", "fleet"},
	{"fleet/cmd/covey-signer-pkcs11", ""},
	{"fleet/cmd/covey", "fleet/internal/api/v1 fleet/internal/group fleet/internal/policy fleet/blob fleet/release fleet/trust hal/modelfile hal/vision hal/task hal/sketch hal/ladder hal/runner"},
	{"fleet", "fleet/internal/... fleet/blob fleet/release fleet/trust fleet/link/..."},

	{"firmware/...", ""},

	// The bench drives layers and programs from outside.
	{"scripts/benchmark", "hal/... fleet/blob/pack"},
	{"scripts", "hal/haltest hal/haltest/port hal/runner hal/vision"},
	{"scripts/...", ""},
}

// tests is what _test files may import besides what their package may.
var tests = []struct{ room, may string }{
	{"hal/...", "hal/haltest hal/haltest/port hal/source/... hal/modelfile hal/vision hal/task hal/runner"},
	{"agent/...", "agent/internal/... hal/... fleet/link/... fleet/blob/... fleet/release"},
	{"firmware/...", "hal/haltest"},
	{"fleet/...", "fleet fleet/internal/... fleet/link/... fleet/blob/... fleet/release hal/..."},
}

// deps is every dependency from outside and the packages that may import it; a
// new one is a decision and gets a line. "…_test" means: its tests only.
var deps = []struct{ module, rooms string }{
	{"github.com/mattn/go-tflite", "hal/tflite scripts/benchmark/bare/sample"},
	{"github.com/nfnt/resize", "scripts/benchmark/bare/sample"}, // a module of its own
	{"github.com/yalue/onnxruntime_go", "hal/onnx"},
	{"github.com/eclipse/paho.mqtt.golang", "fleet/link/mqtt fleet/internal/..._test fleet/e2e_test scripts/benchmark"},
	{"github.com/mochi-mqtt/server/v2", "fleet/internal/broker fleet/link/mqtt_test agent/internal/uplink_test"},
	{"github.com/theupdateframework/go-tuf/v2", "fleet/trust"},
	{"github.com/miekg/pkcs11", "fleet/cmd/covey-signer-pkcs11"},         // cgo; loads a token's library in a program of its own
	{"github.com/secure-systems-lab/go-securesystemslib", "fleet/trust"}, // keys under a passphrase, canonical JSON
	{"go.etcd.io/bbolt", "agent/internal/uplink fleet/internal/store"},
	{"github.com/danielgtaylor/huma/v2", "fleet/internal/api"},
	{"github.com/prometheus/client_golang", "fleet fleet/internal/... agent/internal/health agent/internal/local"},
	{"github.com/spf13/cobra", "agent/cmd/covey-agent fleet/cmd/covey fleet/cmd/covey-fleet"},
	{"github.com/klauspost/compress", "fleet/blob/pack fleet/internal/registry_test"},
	{"github.com/santhosh-tekuri/jsonschema/v6", "fleet/wire_test fleet/release_test firmware_test scripts_test"},
	{"go.yaml.in/yaml/v3", "agent fleet fleet/cmd/covey agent/cmd/covey-agent_test firmware_test scripts_test"},
	{"github.com/rs/zerolog", "agent/... fleet fleet/internal/... fleet/link/... fleet/cmd/... fleet/sim fleet/e2e hal/ladder hal/runner hal/answers_test hal/cmd/... scripts/benchmark"},
	{"github.com/bluenviron/gortsplib/v5", "hal/source/exec_test"}, // an RTSP server to read from
	{"github.com/pion/rtp", "hal/source/exec_test"},
	{"golang.org/x/image", "hal/vision hal/source/... agent/... hal/task_test scripts/benchmark"},
	{"golang.org/x/sync", "agent/... fleet/... hal/runner/... hal/source/..."},
	{"golang.org/x/sys", "agent/... fleet/blob fleet/internal/... hal/haltest/vminit hal/runner/... hal/source/... hal/cmd/... scripts/benchmark"},
	{"golang.org/x/term", "agent/cmd/covey-agent fleet/cmd/..."},
}

// cgo is where import "C" may stand.
var cgo = []string{"hal/tflite", "hal/onnx", "hal/cmd/covey-runner-jpeg"}

// pure is the programs into which no cgo room may find its way.
var pure = []string{"agent/cmd/covey-agent", "fleet/cmd/covey-fleet", "fleet/cmd/covey"}

// unclear is names that say nothing of what a package holds.
var unclear = []string{"util", "utils", "common", "types", "helpers", "helper", "manager", "misc", "base"}

func TestArrows(t *testing.T) {
	packages, err := read(os.DirFS("../.."))
	if err != nil {
		t.Fatal(err)
	}
	if len(packages) < 3 {
		t.Fatalf("found %d packages: the walk looks in the wrong place", len(packages))
	}
	for _, line := range judge(packages) {
		t.Error(line)
	}
}

func TestTop(t *testing.T) {
	lines, err := judgeTop(os.DirFS("../.."))
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range lines {
		t.Error(line)
	}
}
