package tflite

/*
#include <stdlib.h>
#include "shim.h"
*/
import "C"

import (
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"unsafe"

	"github.com/covey-edge/covey/hal"
	"github.com/covey-edge/covey/hal/runner/proto"
)

// externals are the delegates that boards and distributions bring.
var externals = []struct{ library, name string }{
	{"libteflon.so", "NPU by Mesa Teflon"},
	{"libvx_delegate.so", "VeriSilicon NPU"},
	{"libethosu_delegate.so", "Arm Ethos-U NPU"},
	{"libneutron_delegate.so", "NXP Neutron NPU"},
	{"libarmnnDelegate.so", "GPU or CPU by Arm NN"},
}

// Probe looks for every accelerator, the likely best one first. What is simply
// not on a board is not mentioned; what is there by half is diagnosed. Libraries
// are loaded and asked for a delegate: only they know whether their device is here.
func (b Backend) Probe() proto.Found {
	log := (*C.covey_log)(C.calloc(1, C.sizeof_covey_log))
	defer C.free(unsafe.Pointer(log))
	_, version := b.Engine()
	p := probe{log: log, runtime: version}
	p.edgeTPU()
	p.gpu()
	for _, e := range externals {
		p.external(e.library, e.name)
	}
	p.cores()
	return p.found
}

type probe struct {
	log     *C.covey_log
	runtime string
	found   proto.Found
}

func (p *probe) add(d hal.Device) {
	d.Runtime = p.runtime
	p.found.Devices = append(p.found.Devices, d)
}

func (p *probe) ok(subject, detail string) {
	p.found.Diagnoses = append(p.found.Diagnoses, hal.Diagnosis{Subject: subject, OK: true, Detail: detail})
}

func (p *probe) missing(subject, detail, fix string) {
	p.found.Diagnoses = append(p.found.Diagnoses, hal.Diagnosis{Subject: subject, Detail: detail, Fix: fix})
}

// library loads a library; nil when it is not there, or not whole, which is said.
func (p *probe) library(subject, name string) *library {
	l, err := loadLibrary(name, p.log)
	if err != nil {
		if !errors.Is(err, errAbsent) {
			p.missing(subject, text(err), "install the package again that brought "+name+", or remove it")
		}
		return nil
	}
	return l
}

func text(err error) string {
	var e *hal.Error
	if errors.As(err, &e) {
		return e.Text
	}
	return err.Error()
}

func (p *probe) edgeTPU() {
	l := p.library("edgetpu", edgeTPULibrary)
	if l == nil {
		return
	}
	if err := l.pairs(); err != nil {
		p.missing("edgetpu", text(err), edgeTPURemedy)
		return
	}
	var types [16]C.int
	n := int(C.covey_edgetpu_devices(l.handle, &types[0], C.int(len(types))))
	if n == 0 {
		p.missing("edgetpu", l.name()+" is here and sees no Edge TPU",
			"plug it in; if it is, see that this user may open it (udev rule, group apex or plugdev)")
		return
	}
	count := map[string]int{}
	for _, t := range types[:n] {
		kind, name := "usb", "Coral Edge TPU on USB"
		if t == 0 {
			kind, name = "pci", "Coral Edge TPU on PCIe"
		}
		p.add(hal.Device{Accelerator: hal.EdgeTPU, ID: fmt.Sprintf("%s:%d", kind, count[kind]), Name: name, Driver: l.driver()})
		count[kind]++
	}
	p.ok("edgetpu", l.name()+" with "+p.runtime)
}

func (p *probe) gpu() {
	l := p.library("gpu", gpuLibrary)
	if l == nil {
		return
	}
	p.log.used = 0
	n := int(C.covey_opencl_platforms(p.log))
	if n == 0 {
		p.missing("gpu", fmt.Sprintf("%s is here, but no OpenCL: %s", filepath.Base(l.path), said(p.log)),
			"install the OpenCL driver of this GPU; on a Raspberry Pi leave it, xnnpack is faster")
		return
	}
	p.add(hal.Device{Accelerator: hal.GPU, Name: fmt.Sprintf("OpenCL, platforms: %d", n), Driver: l.driver()})
}

func (p *probe) external(library, name string) {
	if p.library(library, library) == nil {
		return
	}
	d, err := newDelegate(wish{accelerator: hal.Accelerator("external:" + library), library: library}, 1, p.log, func(string) {})
	if err != nil {
		p.missing(library, text(err), "load the kernel's driver of the accelerator, or remove the package that brought "+library)
		return
	}
	d.Delete()
	p.add(hal.Device{Accelerator: hal.Accelerator("external:" + library), Name: name, Driver: d.driver})
}

// cores makes an XNNPACK delegate to see that it works.
func (p *probe) cores() {
	cores := fmt.Sprintf("%d cores", runtime.NumCPU())
	w, _ := newWish(hal.XNNPACK, "", nil) // the defaults are no error
	x, err := newDelegate(w, 1, p.log, func(string) {})
	if err != nil {
		p.missing("xnnpack", text(err), "use the libtensorflowlite_c that comes with Covey (scripts/setup)")
	} else {
		x.Delete()
		p.add(hal.Device{Accelerator: hal.XNNPACK, Name: cores})
		p.ok("xnnpack", "int8 and uint8 kernels on")
	}
	p.add(hal.Device{Accelerator: hal.CPU, Name: cores})
}
