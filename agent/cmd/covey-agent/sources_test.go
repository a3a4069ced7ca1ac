package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/covey-edge/covey/agent"
	"github.com/covey-edge/covey/hal"
)

// What is configured reaches the program that makes the pictures.
func TestPrograms(t *testing.T) {
	var f hal.Frame
	s, err := (&sources{}).open(t.Context(), agent.SourceFile{
		Type: "exec", Command: []string{"/bin/sh", "-c", "printf 1111; printf 2222"}, Format: "gray", Width: 2, Height: 2, FPS: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.Next(t.Context(), &f); err != nil || f.Planes[0][0] != '1' {
		t.Errorf("got %q, %v", f.Planes[0], err)
	}
	if err := s.Next(t.Context(), &f); hal.CodeOf(err) != hal.CodeSourceLost {
		t.Errorf("a second picture within a second: %q, %v", f.Planes[0], err)
	}

	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "ffmpeg"), []byte("#!/bin/sh\necho $@ >&2\ncat >/dev/null\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	s, err = (&sources{}).open(t.Context(), agent.SourceFile{Type: "rtsp", URL: "rtsp://camera/1", Width: 320, Height: 100, FPS: 5})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.Next(t.Context(), &f); err == nil || !strings.Contains(err.Error(), "scale=320:100") || !strings.Contains(err.Error(), "floor(t*5)") {
		t.Errorf("got %v", err)
	}
}

// A camera on the board's connector is one input, also where only its node is known.
func TestInputs(t *testing.T) {
	const class = "sys/class/video4linux/"
	root := fstest.MapFS{}
	for name, content := range map[string]string{
		class + "video0/name": "unicam-image", class + "video0/index": "0", class + "video1/name": "unicam-embedded", class + "video1/index": "1",
		class + "v4l-subdev0/name": "imx708 10-001a", class + "video2/name": "HD Webcam", class + "video2/index": "0",
	} {
		root[name] = &fstest.MapFile{Data: []byte(content + "\n")}
	}
	if got := fmt.Sprint(inputs(root)); strings.Count(got, "csi") != 1 || !strings.Contains(got, "imx708") || !strings.Contains(got, "HD Webcam") {
		t.Errorf("got %s", got)
	}
	delete(root, class+"v4l-subdev0/name")
	if got := fmt.Sprint(inputs(root)); strings.Count(got, "{csi 0 unicam-image") != 1 || !strings.Contains(got, "HD Webcam") {
		t.Errorf("without a sensor: %s", got)
	}
}
