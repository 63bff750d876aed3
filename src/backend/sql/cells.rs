//! The types of the standard library as cells, keys and values.

use std::sync::Arc;

use super::{CellError, Column, RowReader, RowWriter, SqlCell, SqlKey, SqlRef, SqlType, SqlValue};

/// The cell holds something else than a `T`.
fn other<T>(cell: SqlRef<'_>) -> CellError {
    CellError::new(format!("found {cell}, which is no {}", std::any::type_name::<T>()))
}

/// A cell is also a value, in a column of its own.
macro_rules! value {
    ($($type:ty $(, [$($generics:tt)*])?;)*) => {$(
        impl $(<$($generics)*>)? SqlValue for $type {
            const COLUMNS: &'static [Column] = &[Column::of::<Self>("value")];

            #[inline]
            fn write(&self, row: &mut RowWriter<'_>) -> Result<(), CellError> {
                row.put(self)
            }

            #[inline]
            fn read(row: &mut RowReader<'_>) -> Result<Self, CellError> {
                row.take()
            }
        }
    )*};
}

/// A cell is also a key, in a column of its own.
macro_rules! key {
    ($($type:ty $(, [$($generics:tt)*])?;)*) => {$(
        impl $(<$($generics)*>)? SqlKey for $type {
            const COLUMNS: &'static [Column] = &[Column::of::<Self>("key")];

            #[inline]
            fn write(&self, row: &mut RowWriter<'_>) -> Result<(), CellError> {
                row.put(self)
            }
        }
    )*};
}

macro_rules! signed {
    ($($type:ty)*) => {$(
        impl SqlCell for $type {
            const TYPE: SqlType = SqlType::Integer;

            #[inline]
            fn write(&self, row: &mut RowWriter<'_>) -> Result<(), CellError> {
                // Not lossy: none of these types is wider.
                row.integer(*self as i64)
            }

            #[inline]
            fn read(cell: SqlRef<'_>) -> Result<Self, CellError> {
                match cell {
                    SqlRef::Integer(number) => Self::try_from(number).map_err(|_| other::<Self>(cell)),
                    _ => Err(other::<Self>(cell)),
                }
            }
        }
    )*};
}

macro_rules! unsigned {
    ($($type:ty)*) => {$(
        impl SqlCell for $type {
            const TYPE: SqlType = SqlType::Integer;
            const UNSIGNED: bool = true;

            #[inline]
            fn write(&self, row: &mut RowWriter<'_>) -> Result<(), CellError> {
                row.unsigned(*self as u64)
            }

            #[inline]
            fn read(cell: SqlRef<'_>) -> Result<Self, CellError> {
                let number = match cell {
                    SqlRef::Integer(number) => u64::try_from(number).ok(),
                    SqlRef::Blob(bytes) => bytes.try_into().ok().map(u64::from_be_bytes),
                    _ => None,
                };
                number.and_then(|number| Self::try_from(number).ok()).ok_or_else(|| other::<Self>(cell))
            }
        }
    )*};
}

signed!(i8 i16 i32 i64 isize u8 u16 u32);
unsigned!(u64 usize);
key! {
    i8; i16; i32; i64; isize; u8; u16; u32; u64; usize; bool;
    String; Box<str>; Arc<str>;
    Vec<u8>; Box<[u8]>; Arc<[u8]>; [u8; N], [const N: usize];
}
value! {
    i8; i16; i32; i64; isize; u8; u16; u32; u64; usize; bool; f32; f64;
    String; Box<str>; Arc<str>;
    Vec<u8>; Box<[u8]>; Arc<[u8]>; [u8; N], [const N: usize];
    Option<T>, [T: SqlCell];
}

impl SqlCell for bool {
    const TYPE: SqlType = SqlType::Integer;

    fn write(&self, row: &mut RowWriter<'_>) -> Result<(), CellError> {
        row.integer(i64::from(*self))
    }

    fn read(cell: SqlRef<'_>) -> Result<Self, CellError> {
        match cell {
            SqlRef::Integer(0) => Ok(false),
            SqlRef::Integer(1) => Ok(true),
            _ => Err(other::<Self>(cell)),
        }
    }
}

impl SqlCell for f64 {
    const TYPE: SqlType = SqlType::Real;

    fn write(&self, row: &mut RowWriter<'_>) -> Result<(), CellError> {
        row.real(*self)
    }

    fn read(cell: SqlRef<'_>) -> Result<Self, CellError> {
        match cell {
            SqlRef::Real(number) => Ok(number),
            _ => Err(other::<Self>(cell)),
        }
    }
}

impl SqlCell for f32 {
    const TYPE: SqlType = SqlType::Real;

    fn write(&self, row: &mut RowWriter<'_>) -> Result<(), CellError> {
        row.real(f64::from(*self))
    }

    /// The nearest `f32`, if another program stored a number that is none.
    fn read(cell: SqlRef<'_>) -> Result<Self, CellError> {
        <f64 as SqlCell>::read(cell).map(|number| number as f32)
    }
}

macro_rules! text {
    ($($type:ty)*) => {$(
        impl SqlCell for $type {
            const TYPE: SqlType = SqlType::Text;

            #[inline]
            fn write(&self, row: &mut RowWriter<'_>) -> Result<(), CellError> {
                row.text(self)
            }

            #[inline]
            fn read(cell: SqlRef<'_>) -> Result<Self, CellError> {
                match cell {
                    SqlRef::Text(text) => Ok(text.into()),
                    _ => Err(other::<Self>(cell)),
                }
            }
        }
    )*};
}

macro_rules! bytes {
    ($($type:ty $(, [$($generics:tt)*])?;)*) => {$(
        impl $(<$($generics)*>)? SqlCell for $type {
            const TYPE: SqlType = SqlType::Blob;

            #[inline]
            fn write(&self, row: &mut RowWriter<'_>) -> Result<(), CellError> {
                row.blob(self)
            }

            #[inline]
            fn read(cell: SqlRef<'_>) -> Result<Self, CellError> {
                match cell {
                    SqlRef::Blob(bytes) => bytes.try_into().map_err(|_| other::<Self>(cell)),
                    _ => Err(other::<Self>(cell)),
                }
            }
        }
    )*};
}

text!(String Box<str> Arc<str>);
bytes!(Vec<u8>; Box<[u8]>; Arc<[u8]>; [u8; N], [const N: usize];);

/// `None` is `NULL`.
impl<T: SqlCell> SqlCell for Option<T> {
    const TYPE: SqlType = T::TYPE;
    const NULLABLE: bool = true;
    const UNSIGNED: bool = T::UNSIGNED;

    fn write(&self, row: &mut RowWriter<'_>) -> Result<(), CellError> {
        match self {
            Some(cell) => cell.write(row),
            None => row.null(),
        }
    }

    fn read(cell: SqlRef<'_>) -> Result<Self, CellError> {
        match cell {
            SqlRef::Null => Ok(None),
            cell => T::read(cell).map(Some),
        }
    }
}

/// No column: the table is a set of keys.
impl SqlValue for () {
    const COLUMNS: &'static [Column] = &[];

    fn write(&self, _: &mut RowWriter<'_>) -> Result<(), CellError> {
        Ok(())
    }

    fn read(_: &mut RowReader<'_>) -> Result<Self, CellError> {
        Ok(())
    }
}

/// The columns of `V`.
impl<V: SqlValue> SqlValue for Arc<V> {
    const COLUMNS: &'static [Column] = V::COLUMNS;

    fn write(&self, row: &mut RowWriter<'_>) -> Result<(), CellError> {
        (**self).write(row)
    }

    fn read(row: &mut RowReader<'_>) -> Result<Self, CellError> {
        V::read(row).map(Arc::new)
    }
}

macro_rules! tuple {
    ($($cell:ident $index:tt $key:literal $value:literal),*) => {
        impl<$($cell: SqlCell),*> SqlKey for ($($cell,)*) {
            const COLUMNS: &'static [Column] = &[$(Column::of::<$cell>($key)),*];

            fn write(&self, row: &mut RowWriter<'_>) -> Result<(), CellError> {
                $(row.put(&self.$index)?;)*
                Ok(())
            }
        }

        impl<$($cell: SqlCell),*> SqlValue for ($($cell,)*) {
            const COLUMNS: &'static [Column] = &[$(Column::of::<$cell>($value)),*];

            fn write(&self, row: &mut RowWriter<'_>) -> Result<(), CellError> {
                $(row.put(&self.$index)?;)*
                Ok(())
            }

            fn read(row: &mut RowReader<'_>) -> Result<Self, CellError> {
                Ok(($(row.take::<$cell>()?,)*))
            }
        }
    };
}

tuple!(A 0 "key_1" "value_1", B 1 "key_2" "value_2");
tuple!(A 0 "key_1" "value_1", B 1 "key_2" "value_2", C 2 "key_3" "value_3");
tuple!(A 0 "key_1" "value_1", B 1 "key_2" "value_2", C 2 "key_3" "value_3", D 3 "key_4" "value_4");
