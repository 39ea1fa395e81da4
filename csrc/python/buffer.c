/* buffer.c: lets a Python class export its memory before Python 3.12.
 *
 * From Python 3.12 on, memoryview(x) calls the method x.__buffer__ (PEP 688). Before that, only a C
 * type could export memory. This C type does it by calling the same method; a Python class inherits
 * from it.
 *
 * The limited API has Py_buffer from 3.11 on, so setup.py asks for that of 3.11. The compiled
 * module also runs on 3.10: the struct and the number of the slot are the same there, and 3.10
 * exports every function that is called here. A build with the headers of 3.10 uses the full API,
 * of which these lines need nothing that a later Python lacks. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

static int exporter_getbuffer(PyObject *self, Py_buffer *view, int flags) {
    PyObject *source = PyObject_CallMethod(self, "__buffer__", "i", flags);
    view->obj = NULL;
    if (source == NULL) return -1;
    int status = PyObject_GetBuffer(source, view, flags); /* view->obj now keeps source alive */
    Py_DECREF(source);
    return status;
}

static PyType_Slot exporter_slots[] = {
    {Py_bf_getbuffer, (void *)exporter_getbuffer},
    {Py_tp_doc, "Exports the buffer that its __buffer__ method returns, through memoryview()."},
    {0, NULL},
};

static PyType_Spec exporter_spec = {
    .name = "pygpt._buffer.Exporter",
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .slots = exporter_slots,
};

static PyModuleDef buffer_module = {PyModuleDef_HEAD_INIT, .m_name = "pygpt._buffer", .m_size = -1};

PyMODINIT_FUNC PyInit__buffer(void) {
    PyObject *module = PyModule_Create(&buffer_module);
    PyObject *type = module == NULL ? NULL : PyType_FromSpec(&exporter_spec);
    if (type == NULL || PyModule_AddObjectRef(module, "Exporter", type) < 0) Py_CLEAR(module);
    Py_XDECREF(type);
    return module;
}
