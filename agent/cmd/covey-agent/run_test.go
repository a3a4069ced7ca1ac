package main

import (
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/covey-edge/covey/firmware"
)

func TestFloor(t *testing.T) {
	before := built
	defer func() { built = before }()
	for text, want := range map[string]time.Time{"": {}, "dev": {}, "1795440000": time.Unix(1795440000, 0)} {
		built = text
		if got := floor(); !got.Equal(want) {
			t.Errorf("built %q: floor %v, want %v", text, got, want)
		}
	}
}

// TestUnitsSayTheSame: the paths and words of the runners' units are this program's.
func TestUnitsSayTheSame(t *testing.T) {
	for text, line := range map[string]string{
		firmware.RunnerSocket: "ListenSequentialPacket=" + runnerSocket,
		firmware.AgentUnit:    "RuntimeDirectory=" + strings.TrimPrefix(serviceDir, "/run/"),
		firmware.RunnerUnit:   "ExecStopPost=/usr/bin/covey-agent " + endedCommand().Name() + " " + serviceDir + "/ended",
	} {
		if !strings.Contains(text, "\n"+line+"\n") {
			t.Errorf("no line %q in\n%s", line, text)
		}
	}
	if !strings.Contains(firmware.RunnerUnit, "\nExecStart=/usr/bin/covey-agent "+stageCommand().Name()+" --unit\n") {
		t.Error("instances are not started by the stage")
	}
	t.Setenv("RUNTIME_DIRECTORY", "")
	if u := units(zerolog.Nop()); u != nil {
		t.Error("an agent that is no service starts runners by systemd")
	}
}
