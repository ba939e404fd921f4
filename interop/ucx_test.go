//go:build cgo && ucx

package interop

import (
	"testing"

	"github.com/proxyplane/proxyplane/internal/testenv"
)

// ucxKind needs an interpreter with ucx-py, which PROXYPLANE_PYTHON_UCX names. Without one these tests are skipped.
var ucxKind = dimKind{"ucx", "proxystore_ex.connectors.dim.ucx.UCXConnector", testenv.PythonUCX, true}

func init() { tags = append(tags, "ucx") }

func TestUCXSizes(t *testing.T)         { testDIMSizes(t, ucxKind) }
func TestUCXBatches(t *testing.T)       { testDIMBatches(t, ucxKind) }
func TestUCXManyClients(t *testing.T)   { testDIMManyClients(t, ucxKind) }
func TestUCXKilledClients(t *testing.T) { testDIMKilledClients(t, ucxKind) }
func TestUCXServerRestart(t *testing.T) { testDIMServerRestart(t, ucxKind) }
func TestUCXPolicy(t *testing.T)        { testDIMPolicy(t, ucxKind) }
