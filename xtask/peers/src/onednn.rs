//! oneDNN's matmul as runtimes use it: weights reordered once into the format that it asks for. Its C API is called here, in the
//! library that the Python package `onednn-cpu-gomp` brings: there are no headers to build against.

use std::{
    cell::Cell,
    ffi::{c_int, c_uint, c_void},
    path::Path,
    ptr::{null, null_mut},
};

use anyhow::{Context, Result, bail, ensure};
use libloading::Library;

use crate::{
    in_process::Product,
    ours::{Op, Operands, Packing, Type},
};

/// A pointer to something of the library's.
type Handle = *mut c_void;

/// An argument of a primitive.
#[repr(C)]
#[derive(Clone, Copy)]
struct Argument {
    index: c_int,
    memory: Handle,
}

/// `dnnl_dims_t`.
type Dims = [i64; 12];

// Constants of the C API, which keeps them from release to release.
const CPU: c_int = 1;
const IN_ORDER: c_uint = 1;
const ALLOCATE: Handle = usize::MAX as Handle;
const ANY: c_int = 1;
const PAUSE_SOFT: c_int = 1;
const F32: c_int = 3;
const S32: c_int = 4;
const S8: c_int = 5;
const U8: c_int = 6;
const WEIGHTS_DESCRIPTION: c_int = 131;
const SOURCE: c_int = 1;
const DESTINATION: c_int = 17;
const WEIGHTS: c_int = 33;
const SCALES: c_int = 4096;
/// A scale for each column.
const COLUMNS: c_int = 1 << 1;

/// The functions of the C API that are called, each of which returns a status.
macro_rules! api {
    ($($name:ident($($argument:ty),*);)*) => {
        struct Functions { $($name: unsafe extern "C" fn($($argument),*) -> c_int,)* }

        impl Functions {
            fn find(library: &Library) -> Result<Self> {
                // SAFETY: the types are those of `dnnl.h`.
                Ok(unsafe { Self { $($name: *library.get(concat!("dnnl_", stringify!($name), "\0").as_bytes())?,)* } })
            }
        }
    };
}

api! {
    engine_create(*mut Handle, c_int, usize);
    engine_destroy(Handle);
    stream_create(*mut Handle, Handle, c_uint);
    stream_wait(Handle);
    stream_destroy(Handle);
    memory_desc_create_with_tag(*mut Handle, c_int, *const Dims, c_int, c_int);
    memory_desc_create_with_strides(*mut Handle, c_int, *const Dims, c_int, *const Dims);
    memory_desc_destroy(Handle);
    memory_create(*mut Handle, Handle, Handle, Handle);
    memory_destroy(Handle);
    primitive_attr_create(*mut Handle);
    primitive_attr_set_scales_mask(Handle, c_int, c_int);
    primitive_attr_destroy(Handle);
    matmul_primitive_desc_create(*mut Handle, Handle, Handle, Handle, Handle, Handle, Handle);
    reorder_primitive_desc_create(*mut Handle, Handle, Handle, Handle, Handle, Handle);
    primitive_desc_destroy(Handle);
    primitive_create(*mut Handle, Handle);
    primitive_execute(Handle, Handle, c_int, *const Argument);
    primitive_destroy(Handle);
}

fn check(status: c_int, what: &str) -> Result<()> {
    match status {
        0 => Ok(()),
        3 => bail!("{what} is not implemented"),
        _ => bail!("{what}: status {status}"),
    }
}

/// The library, its engine and its stream.
pub struct Dnnl {
    functions: Functions,
    engine: Handle,
    stream: Handle,
    set_threads: unsafe extern "C" fn(c_int),
    /// Ends the threads of OpenMP until the next call.
    pause: unsafe extern "C" fn(c_int) -> c_int,
    /// Last, for what stands above is of it.
    library: Library,
}

// SAFETY: engine and stream may be used from any thread, by one at a time.
unsafe impl Send for Dnnl {}

impl Dnnl {
    pub fn open(path: &Path) -> Result<Self> {
        // SAFETY: what the library does when it is loaded is what every user of it trusts.
        let library = unsafe { Library::new(path) }.context("cannot be opened")?;
        let functions = Functions::find(&library)?;
        // SAFETY: the type is that of `omp.h`; OpenMP is what this library was linked with.
        let set_threads = *unsafe { library.get(b"omp_set_num_threads\0") }?;
        // SAFETY: as above; its argument is an enumeration.
        let pause = *unsafe { library.get(b"omp_pause_resource_all\0") }?;
        let mut dnnl =
            Self { functions, engine: null_mut(), stream: null_mut(), set_threads, pause, library };
        let functions = &dnnl.functions;
        // SAFETY: each call writes a handle that is there.
        unsafe {
            check((functions.engine_create)(&mut dnnl.engine, CPU, 0), "an engine")?;
            check((functions.stream_create)(&mut dnnl.stream, dnnl.engine, IN_ORDER), "a stream")?;
        }
        Ok(dnnl)
    }

    /// Such as 3.2.
    pub fn version(&self) -> Result<String> {
        type Version = unsafe extern "C" fn() -> *const [c_int; 3];
        // SAFETY: the structure begins with major, minor and patch, and is never freed.
        let [major, minor, _] = unsafe { *self.library.get::<Version>(b"dnnl_version\0")?() };
        Ok(format!("{major}.{minor}"))
    }

    /// Something that the library makes, and what frees it.
    fn make(
        &self,
        what: &str,
        destroy: unsafe extern "C" fn(Handle) -> c_int,
        make: impl FnOnce(*mut Handle) -> c_int,
    ) -> Result<Owned> {
        let mut handle = null_mut();
        check(make(&mut handle), what)?;
        ensure!(!handle.is_null(), "{what} is not there");
        Ok(Owned { handle, destroy })
    }

    /// Memory of those sizes, with those strides or as the library would have it.
    fn description<const D: usize>(
        &self,
        sizes: [usize; D],
        kind: c_int,
        strides: Option<[usize; D]>,
    ) -> Result<Owned> {
        let dims = |values: [usize; D]| -> Dims {
            std::array::from_fn(|i| values.get(i).map_or(0, |&value| value as i64))
        };
        let (f, count, sizes, strides) = (&self.functions, D as c_int, dims(sizes), strides.map(dims));
        // SAFETY: sizes and strides are read at once.
        self.make("a description of memory", f.memory_desc_destroy, |handle| unsafe {
            match &strides {
                Some(strides) => (f.memory_desc_create_with_strides)(handle, count, &sizes, kind, strides),
                None => (f.memory_desc_create_with_tag)(handle, count, &sizes, kind, ANY),
            }
        })
    }

    /// Memory of that description: at `data`, which must stay there, or the library's own.
    fn memory(&self, description: Handle, data: *const c_void) -> Result<Owned> {
        let f = &self.functions;
        // SAFETY: the description is alive; what `data` holds is touched by executions only.
        self.make("memory", f.memory_destroy, |handle| unsafe {
            (f.memory_create)(handle, description, self.engine, data.cast_mut())
        })
    }

    fn primitive(&self, description: &Owned) -> Result<Owned> {
        let f = &self.functions;
        // SAFETY: the description is alive.
        self.make("a primitive", f.primitive_destroy, |handle| unsafe {
            (f.primitive_create)(handle, description.handle)
        })
    }

    fn execute(&self, primitive: &Owned, arguments: &[Argument]) -> Result<()> {
        let f = &self.functions;
        // SAFETY: primitive and memory are alive, and memory is as large as its description says.
        let (run, waited) = unsafe {
            let count = arguments.len() as c_int;
            let run = (f.primitive_execute)(primitive.handle, self.stream, count, arguments.as_ptr());
            (run, (f.stream_wait)(self.stream))
        };
        check(run, "a call")?;
        check(waited, "its end")
    }
}

impl Drop for Dnnl {
    fn drop(&mut self) {
        // SAFETY: both are this one's, and what used them borrowed it. One that was not made is null, which is refused.
        unsafe {
            (self.functions.stream_destroy)(self.stream);
            (self.functions.engine_destroy)(self.engine);
        }
    }
}

/// Something of the library's that is freed with this.
struct Owned {
    handle: Handle,
    destroy: unsafe extern "C" fn(Handle) -> c_int,
}

impl Drop for Owned {
    fn drop(&mut self) {
        // SAFETY: made by the library, and freed once.
        unsafe { (self.destroy)(self.handle) };
    }
}

/// A product without zero points; i8 and f32 outputs have a scale for each column.
pub struct OneDnn<'a> {
    dnnl: &'a Dnnl,
    operands: &'a Operands,
    primitive: Owned,
    arguments: Vec<Argument>,
    /// Room for the elements, which are read where they are i32: the library writes through a pointer that it was given.
    out: Vec<Cell<i32>>,
    is_sums: bool,
    _memory: Vec<Owned>,
    _scales: Vec<f32>,
}

impl<'a> OneDnn<'a> {
    pub fn new(dnnl: &'a Dnnl, operands: &'a Operands, op: Op, threads: usize) -> Result<Self> {
        let (m, k, n) = operands.shape;
        let kind = |of: Type| match of {
            Type::I8 => S8,
            Type::U8 => U8,
            Type::I32 => S32,
            Type::F32 => F32,
        };
        // SAFETY: only sets a number of this thread's.
        unsafe { (dnnl.set_threads)(threads as c_int) };
        let f = &dnnl.functions;
        // SAFETY: writes a handle that is there.
        let attributes = dnnl.make("attributes", f.primitive_attr_destroy, |handle| unsafe {
            (f.primitive_attr_create)(handle)
        })?;
        let is_sums = op.out == Type::I32;
        if !is_sums {
            // SAFETY: the attributes are alive.
            let set = unsafe { (f.primitive_attr_set_scales_mask)(attributes.handle, WEIGHTS, COLUMNS) };
            check(set, "scales of columns")?;
        }
        let strides = if op.packing == Packing::Columns { [1, k] } else { [n, 1] };
        let plain = dnnl.description([k, n], S8, Some(strides))?;
        let any = dnnl.description([k, n], S8, None)?;
        let lhs = dnnl.description([m, k], kind(op.lhs), Some([k, 1]))?;
        let out = dnnl.description([m, n], kind(op.out), Some([n, 1]))?;
        let weights = if op.packing == Packing::Once { &any } else { &plain };
        // SAFETY: the descriptions are alive; there is no bias.
        let matmul = dnnl.make("a product of these types", f.primitive_desc_destroy, |handle| unsafe {
            let (lhs, rhs, out) = (lhs.handle, weights.handle, out.handle);
            (f.matmul_primitive_desc_create)(
                handle,
                dnnl.engine,
                lhs,
                rhs,
                null_mut(),
                out,
                attributes.handle,
            )
        })?;
        let given = dnnl.memory(plain.handle, operands.rhs.as_ptr().cast())?;
        let weights =
            if op.packing == Packing::Once { reordered(dnnl, &matmul, &plain, &given)? } else { given };
        let sums = vec![Cell::new(0); m * n];
        let scales: Vec<f32> = operands.scales();
        let in_lhs = dnnl.memory(lhs.handle, operands.lhs.as_ptr().cast())?;
        let in_out = dnnl.memory(out.handle, sums.as_ptr().cast())?;
        let mut memory = vec![(SOURCE, in_lhs), (WEIGHTS, weights), (DESTINATION, in_out)];
        if !is_sums {
            let description = dnnl.description([n], F32, Some([1]))?;
            memory.push((SCALES | WEIGHTS, dnnl.memory(description.handle, scales.as_ptr().cast())?));
        }
        Ok(Self {
            dnnl,
            operands,
            primitive: dnnl.primitive(&matmul)?,
            arguments: memory
                .iter()
                .map(|(index, memory)| Argument { index: *index, memory: memory.handle })
                .collect(),
            out: sums,
            is_sums,
            _memory: memory.into_iter().map(|(_, memory)| memory).collect(),
            _scales: scales,
        })
    }
}

/// Weights in the format that the product asks for.
fn reordered(dnnl: &Dnnl, matmul: &Owned, plain: &Owned, given: &Owned) -> Result<Owned> {
    type Query = unsafe extern "C" fn(Handle, c_int, c_int) -> Handle;
    // SAFETY: the type is that of `dnnl.h`; what is returned is the primitive description's, which is alive.
    let wanted = unsafe {
        let query = dnnl.library.get::<Query>(b"dnnl_primitive_desc_query_md\0")?;
        query(matmul.handle, WEIGHTS_DESCRIPTION, 0)
    };
    ensure!(!wanted.is_null(), "no format of weights is asked for");
    let weights = dnnl.memory(wanted, ALLOCATE)?;
    let f = &dnnl.functions;
    // SAFETY: the descriptions are alive; there are no attributes.
    let reorder = dnnl.make("a reorder", f.primitive_desc_destroy, |handle| unsafe {
        let engine = dnnl.engine;
        (f.reorder_primitive_desc_create)(
            handle,
            plain.handle,
            engine,
            wanted,
            engine,
            null::<c_void>().cast_mut(),
        )
    })?;
    let [from, to] = [(SOURCE, given), (DESTINATION, &weights)]
        .map(|(index, memory)| Argument { index, memory: memory.handle });
    dnnl.execute(&dnnl.primitive(&reorder)?, &[from, to])?;
    Ok(weights)
}

impl Product for OneDnn<'_> {
    const NAME: &'static str = "oneDNN";
    const OWN_THREADS: bool = true;

    fn call(&mut self) -> Result<()> {
        self.dnnl.execute(&self.primitive, &self.arguments)
    }

    /// OpenMP's threads look for work for up to 20 ms.
    fn rest(&mut self) {
        // SAFETY: no call of the library is under way. Where it is refused, its threads give up by themselves.
        unsafe { (self.dnnl.pause)(PAUSE_SOFT) };
    }

    fn sums(&self) -> Option<(i32, Vec<i32>)> {
        let (m, _, n) = self.operands.shape;
        self.is_sums.then(|| (0, self.out[..m * n].iter().map(Cell::get).collect()))
    }
}
